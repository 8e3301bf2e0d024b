"""The errors that flatness prints: of what they are, and that they are the scatter over seeds."""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from flatness_studies import arguments, parse, study
from flatness_studies import subject as subject_of
from launch import ROOT

from flatdiff.measure import curve, paired
from flatdiff.store import model_paths
from flatdiff.weights import perturb

sys.path.insert(0, str(ROOT / "benchmarks"))
import flatness_scatter


def test_a_rise_has_an_error_over_images_of_its_mean_over_draws(folder, tmp_path):
    """Both errors, and those of a difference, by each image's losses, looked at from outside."""
    argv = arguments(folder, tmp_path, "--sigma", "0.02")
    record, flags = study(argv), parse(argv)
    rows = [r for r in record["rows"] if r["part"] == "all"]
    rises = []
    for path in model_paths.find_models(flags.flatness.model_path):
        subject = subject_of(path, flags)
        own, moved = subject.measure(), []
        for draw in range(4):
            with perturb.at(subject.weights, curve.perturbation(perturb.gaussian, 0.02, 0, draw)):
                moved.append(subject.measure())
        rises.append(torch.stack(moved).mean(dim=0) - own)
    everything, plan = [torch.ones(16, dtype=torch.bool)], subject.plan
    for i, term in enumerate(("mse", "vb", "loss")):
        first, second = (row for row in rows if row["term"] == term)
        for values, error in (
            (rises[0], first["error_images"]),
            (rises[1], second["error_images"]),
            (rises[1] - rises[0], second["minus_first_error_images"]),
        ):
            assert error == pytest.approx(plan.errors(values[i], everything)[0], rel=1e-5)
        for row in (first, second):
            assert row["rise"] == pytest.approx(plan.means(rises[row is second][i], everything)[0])
            assert row["error_larger"] == max(row["error"], row["error_images"])
        assert first["minus_first_error_images"] is None
        kept = second["minus_first_error"], second["minus_first_error_images"]
        assert second["minus_first_error_larger"] == max(kept)


def test_other_timesteps_are_not_paired(folder, tmp_path):
    flags = parse(arguments(folder, tmp_path))
    path = f"{folder}/runs/a/model000007.pt"
    a = subject_of(path, flags)
    fewer = replace(flags.flatness, t_range=20)
    b = subject_of(path, SimpleNamespace(**vars(flags) | {"flatness": fewer}))
    values = torch.rand(3, 16, dtype=torch.float64)
    found = paired.of_difference(b, values, a, values)
    expected = torch.hypot(a.errors_of(values[:1]), b.errors_of(values[:1]))[0, 0]
    assert found["mse"][0] == pytest.approx(float(expected))
    assert paired.of_difference(a, values, a, values)["mse"][0] == 0


def test_the_larger_error_is_shown():
    draws = torch.tensor([[0.0, 0.0], [2.0, 2.0]], dtype=torch.float64)
    found = curve.estimate("rise", "error", draws, [0.5, 7.0])
    assert found["error"] == [1, 1] and found["error_images"] == [0.5, 7]
    assert found["error_larger"] == [1, 7] and found["rise"] == [1, 1]
    unknown = curve.estimate("rise", "error", draws, [float("nan"), 7.0])
    assert str(unknown["error_larger"][0]) == "nan"  # an error that is not known is not small


@pytest.mark.parametrize("kind", ["LPF", "quant"])
def test_errors_are_the_scatter_over_seeds(folder, kind):
    """Half of the variational bound is at the last step here. 20 seeds know a scatter to 16 %."""
    argv = ["--model_path", f"{folder}/runs/b/ema_0.9_000007.pt", "--num_images", "64"]
    argv += ["--data_dir", f"{folder}/many.npz"]
    argv += ["--quant", "3"] if kind == "quant" else ["--num_draws", "6", "--sigma", "0.02"]
    rows = flatness_scatter.table(
        [flatness_scatter.of_seed(kind, argv, s) for s in range(200, 220)]
    )
    assert {"mse", "vb", "loss", "x_mse"} == {row.name.split()[-1] for row in rows}
    for row in rows:
        assert 0.6 < row.ratio_of_both < 1.3, row
        assert row.ratio < 1.3 * math.sqrt(2), row  # the larger of two that are alike
