"""A study of two small networks, end to end: what it says, its files, ranks and interruptions."""

import csv
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flatness_studies import (
    DIFFUSION,
    KINDS,
    MODEL,
    arguments,
    estimates,
    measure,
    parse,
    study,
    study_of,
)
from launch import ROOT, mpirun

from flatdiff.flags import config
from flatdiff.measure import run, sources
from flatdiff.measure.finished import Finished
from flatdiff.measure.subject import Subject
from flatdiff.models import networks
from flatdiff.store import checkpoint, model_paths
from flatdiff.weights import perturb
from flatdiff.world import logger


@pytest.fixture(scope="module")
def alone(folder):
    """The folder of a study of each kind, measured by one rank."""
    for kind in KINDS:
        measure(study_of(kind, folder, folder / "alone"))
    return folder / "alone"


@pytest.mark.slow
def test_two_ranks_find_the_same_bit_for_bit(folder, alone):
    together = folder / "together"
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import flatness_studies as test
from flatdiff.measure import curve, plane, spectrum
from flatdiff.world import dist_util
for kind in (curve.Curve, spectrum.HESSIAN, plane.SURFACE):
    kind.figures = lambda *_: dict()
with dist_util.session():
    for kind in test.KINDS:
        test.measure(test.study_of(kind, {str(folder)!r}, {str(together)!r}))
"""
    done = mpirun(2, "-c", code)
    assert done.returncode == 0, done.stderr
    names = ["flatness.json", *(f"flatness_{kind}.csv" for kind in KINDS)]
    for name in names:
        assert (together / name).read_bytes() == (alone / name).read_bytes()
    parts = [p.read_text().count("LPF") for p in (together / "flatness_parts").iterdir()]
    assert parts == [8, 8]  # each rank measured half of the draws


@pytest.mark.parametrize("measured", ["flatness", "exposure"])
def test_measuring_is_without_tf32_and_leaves_no_setting_behind(folder, monkeypatch, measured):
    def stopped(*_):
        seen.append((cudnn.allow_tf32, cudnn.deterministic))
        raise InterruptedError

    seen, cudnn = [], torch.backends.cudnn
    monkeypatch.setattr(networks, "from_checkpoint", stopped)
    flags = parse(arguments(folder, folder / "stopped"))
    flags.exposure = config.ExposureFlags(model_path=flags.flatness.model_path)
    with pytest.raises(InterruptedError):
        getattr(run, measured)(flags, str(folder / "stopped"))
    with pytest.raises(InterruptedError):
        stopped()
    assert seen == [(False, True), (True, False)]


def test_rows_are_means_over_pairs_of_the_draws(alone):
    study = estimates(alone, "LPF")
    first, second = study["models"]
    assert [p["size"] for p in first["curve"]] == [0.005, 0.02]
    for part in range(5):
        rises = [
            np.array(m["curve"][1]["losses"]["vb"])[:, part] - m["at_w"]["vb"]["losses"][part]
            for m in (first, second)
        ]
        a, b = (rise.reshape(2, 2).mean(axis=1) for rise in rises)
        row = next(
            r
            for r in study["rows"]
            if (r["model"], r["term"], r["sigma"]) == (second["name"], "vb", 0.02)
            and r["part"] == ["all", *(f"quarter {q}" for q in (1, 2, 3, 4))][part]
        )
        assert row["rise"] == pytest.approx(b.mean())
        assert row["error"] == pytest.approx(b.std(ddof=1) / math.sqrt(2))
        assert row["minus_first"] == pytest.approx((b - a).mean())
        assert row["minus_first_error"] == pytest.approx((b - a).std(ddof=1) / math.sqrt(2))
        assert row["moved"] == pytest.approx(row["at_w"] + row["rise"])
        assert row["relative"] == pytest.approx(row["rise"] / row["at_w"])
        assert row["levels"] == ["0..39", "0..9", "10..19", "20..29", "30..39"][part]
    assert {r["minus_first"] for r in study["rows"] if r["model"] == first["name"]} == {None}
    assert study["settings"]["flatness"]["num_draws"] == 4 and len(first["sha256"]) == 64


def test_distances_are_those_asked_for(folder, alone, tmp_path):
    for model in study(arguments(folder, tmp_path, "--flatness", "MC"))["models"]:
        assert model["curve"][0]["distances"] == pytest.approx([1] * 4, rel=1e-5)
    for model in estimates(alone, "LPF")["models"]:
        expected = 0.02 * math.sqrt(model["num_weights"])
        assert model["curve"][1]["distances"] == pytest.approx([expected] * 4, rel=0.02)


def test_surface_passes_through_both_networks(alone):
    study = estimates(alone, "SURFACE")
    ends = {0.0: 0, 1.0: 1}
    for alpha, loss in zip(study["line"]["alphas"], study["line"]["losses"]["loss"]):
        if alpha in ends:
            assert loss == study["models"][ends[alpha]]["at_w"]["loss"]["losses"]
    with np.load(alone / "flatness_SURFACE.npz") as file:
        assert file["a/model000007/mse"].shape == (3, 3, 5)
        assert file["axis"].tolist() == [-1, 0, 1]
        at_w = study["models"][0]["at_w"]["mse"]["losses"]
        assert file["a/model000007/mse"][1, 1].tolist() == at_w


def test_files_to_read(alone):
    with open(alone / "flatness_LPF.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 4 * 5 and float(rows[0]["sigma"]) == 0.005
    for name in ("LPF", "HESSIAN", "SURFACE", "SURFACE_1D", "SURFACE_line"):
        assert (alone / f"flatness_{name}.png").read_bytes().startswith(b"\x89PNG")
    log = (alone / "log.txt").read_text()
    assert str(alone / "flatness.json") in log
    table = log[log.index("mse  ") :].splitlines()[:5]
    assert len({len(line) for line in table[:5]}) == 1


def test_an_interrupted_study_goes_on(folder, alone, monkeypatch, capsys):
    real, seen = Subject.measure, []

    def measured(self):
        seen.append(self)
        if len(seen) == 11:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Subject, "measure", measured)
    argv = arguments(folder, folder / "again", "--flatness", "LPF")
    with pytest.raises(KeyboardInterrupt):
        study(argv)
    saved = torch.load(folder / "runs/b/ema_0.9_000007.pt", weights_only=True)
    for name, weight in seen[-1].model.named_parameters():
        assert torch.equal(weight, saved[name])
    assert "the same command goes on" in capsys.readouterr().out
    part = folder / "again/flatness_parts/rank0.jsonl"
    part.write_text(part.read_text()[:-20])  # as if killed while writing: draw 10 is lost
    record = study(argv)
    assert len(seen) == 11 + 16 - 9
    assert record["models"] == estimates(alone, "LPF")["models"]
    assert study(argv) == record and len(seen) == 18
    study(argv + ["--num_draws", "6"])
    assert len(seen) == 18 + 8  # four of six draws were known, of each network and sigma


@pytest.mark.parametrize(
    "more",
    [
        ("--seed", "1"),
        ("--t_range", "10"),
        ("--num_images", "7"),
        ("--dtype", "bf16"),
        ("--noise_scale", "filter"),
        ("--timestep_respacing", "20"),
    ],
)
def test_another_study_does_not_use_what_is_known(folder, tmp_path, more, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Subject, "measure", lambda self: calls.append(self) or torch.zeros_like(self.own)
    )
    argv = arguments(folder, tmp_path, "--model_path", f"{folder}/runs/a/model000007.pt")
    study(argv)
    study(argv + list(more))
    assert len(calls) == 16
    study(argv + list(more))
    assert len(calls) == 16


@pytest.mark.parametrize("kind", ["LPF", "SURFACE"])
def test_draws_of_other_numbers_are_measured_anew(folder, tmp_path, kind, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Subject, "measure", lambda self: calls.append(self) or torch.zeros_like(self.own)
    )
    path = f"{folder}/runs/a/model000007.pt"
    argv = arguments(folder, tmp_path, "--flatness", kind, "--model_path", path)
    study(argv)
    once = len(calls)
    monkeypatch.setattr(perturb, "NUMBERS", "mersenne")
    study(argv)
    assert len(calls) == 2 * once


def test_classes(folder, tmp_path):
    model = replace(MODEL, class_cond=True, num_classes=2)
    network, _ = networks.build(model, DIFFUSION)
    checkpoint.save(network.state_dict(), str(tmp_path / "model000001.pt"))
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "data.npz", arr_0=images, arr_1=np.array([0, 1, 1, 0]))
    argv = arguments(folder, tmp_path, "--flatness", "MC", "--num_images", "6")
    argv += ["--model_path", f"{tmp_path}/model000001.pt", "--data_dir", f"{tmp_path}/data.npz"]
    for name, value in (vars(model) | vars(DIFFUSION)).items():
        argv += [f"--{name}", str(value)]
    (found,) = study(argv)["models"]
    assert found["num_weights"] == sum(w.numel() for w in network.parameters())
    more = np.array([0, 1, 2, 0])
    np.savez(tmp_path / "data.npz", arr_0=images, arr_1=more)
    with pytest.raises(ValueError, match="labels up to 2 .*give --num_classes 3"):
        study(argv)


def test_checkpoints_are_found_once_and_told_apart(folder):
    a, b = f"{folder}/runs/a/model000007.pt", f"{folder}/runs/b/ema_0.9_000007.pt"
    (folder / "runs/a/opt000007.pt").touch()
    assert model_paths.find_models(f"{b}, {folder}/runs/*/*,{folder}/runs/../runs/b/ema*") == [
        b,
        a,
    ]
    assert model_paths.short_names([a, b]) == ["a/model000007", "b/ema_0.9_000007"]
    assert model_paths.short_names([a]) == ["model000007"]
    assert model_paths.short_names(["gs://x/model1.pt", "gs://y/model1.pt"]) == [
        "x/model1",
        "y/model1",
    ]
    (folder / "runs/a/opt000007.pt").unlink()


@pytest.mark.parametrize(
    "more, message",
    [
        (("--model_path", ""), "no checkpoint"),
        (("--model_path", "{folder}/runs/a/model000007.pt,{folder}/nope.pt"), "no file .*nope.pt"),
        (("--model_path", "{folder}/runs/a"), "no file .*runs/a"),
        (("--model_path", "{folder}/runs/c*"), "no file"),
        (("--data_dir", ""), "no data"),
        (("--num_draws", "5"), "num_draws is 5"),
        (("--num_draws", "2"), "num_draws is 2"),
        (("--sigma", "0.1,x"), "--sigma is '0.1,x'"),
        (("--sigma", "0.1,-1"), "--sigma is"),
        (("--flatness", "MC", "--radius", "inf"), "--radius is 'inf'"),
        (("--flatness", "SURFACE", "--surface_points", "4"), "surface_points is 4"),
    ],
)
def test_bad_flags_are_refused_before_any_work(folder, tmp_path, more, message):
    argv = [x.format(folder=folder) for x in more]
    with pytest.raises(ValueError, match=message):
        measure(arguments(folder, tmp_path / "out", *argv))
    assert not (tmp_path / "out").exists()


def test_networks_hard_to_compare_are_named(monkeypatch):
    said = []
    monkeypatch.setattr(logger, "warn", said.append)
    same = {"name": "a", "num_weights": 5, "image_size": 8, "t_range": 10}
    run.warn_of_differences([same, same])
    assert not said
    run.warn_of_differences([same, same | {"name": "b", "num_weights": 6}])
    assert len(said) == 1 and "num_weights is 5 for a and 6 for b" in said[0]
    whole, less = (same | {"parts": {"x_mse": {"all": text}}} for text in ("-8..8", "1.2..8"))
    run.warn_of_differences([whole, whole])
    run.warn_of_differences([whole, less])
    assert len(said) == 2 and "x_mse is of -8..8 and of 1.2..8" in said[1]


def test_results_are_kept_as_they_were(tmp_path):
    value = {"losses": [0.1 + 0.2, 1e-310, -3.0], "distance": 1 / 3}
    with Finished(str(tmp_path)) as finished:
        finished.compute({"x": lambda: value})
    with Finished(str(tmp_path)) as finished:
        known, new = finished.compute({"x": lambda: 1 / 0, "y": lambda: 5})
    assert known == value and new == 5


def test_sizes_have_defaults_by_scale():
    def sizes(**flags):
        return run.made(flags.get("flatness", "LPF"), config.FlatnessFlags(**flags)).sizes

    assert sizes() == [5e-4, 1e-3, 2e-3, 5e-3, 1e-2]
    assert sizes(noise_scale="filter") == [0.01, 0.02, 0.05, 0.1, 0.2]
    assert sizes(flatness="MC", radius="3,1,3") == [1, 3]


def test_hessian_is_not_in_half_precision(monkeypatch):
    said = []
    monkeypatch.setattr(logger, "warn", said.append)
    flags = SimpleNamespace(
        flatness=config.FlatnessFlags(flatness="HESSIAN"),
        run=config.RunFlags(dtype="bf16"),
        model=config.ModelFlags(use_fp16=True),
    )
    assert run.made("HESSIAN", flags.flatness).fp32
    plain = sources.exact(flags)
    assert (plain.run.dtype, plain.model.use_fp16) == ("fp32", False) and len(said) == 1
