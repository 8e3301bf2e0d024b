"""The bench as a user runs it, on a tiny network: against the samples that scripts draw."""

import json
import sys

import numpy as np
import pytest
import torch
from launch import run, script, succeed
from small import groups, network, save_run

from flatdiff.flags import config
from flatdiff.judge.evaluate import evaluate
from flatdiff.judge.features import Features
from flatdiff.measure import evaluation, exposure_bench

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


def flags_of(*argv):
    kinds = {"bench": config.ExposureBenchFlags, "run": config.RunFlags, "data": config.DataFlags}
    return config.parse("", list(argv), **kinds)


def test_lists_are_read_and_mistakes_told():
    axes = exposure_bench.axes_of(flags_of("--chain_steps", "5,10", "--weight_bits", "32,4"))
    assert (axes.steps, axes.bits) == ([5, 10], [32, 4])
    assert next(iter(axes.ways)) == "plain" and axes.ways["eps / 0.98"] == ("ddim", 0.98)
    assert axes.ways["time shift"] == ("shifted window=30 cutoff=200", 1.0)
    for name, value, message in (
        ("--scalings", "1,1.1,1.2", "expected four or more, and 1 among them"),
        ("--scalings", "0.9,1.1,1.2,1.3", "expected four or more, and 1 among them"),
        ("--scalings", "0,1,1.2,1.3", "expected numbers above 0"),
        ("--weight_bits", "16", "of 2 to 8, or 32"),
        ("--chain_steps", "1", "expected whole numbers"),
    ):
        with pytest.raises(ValueError, match=f"{name} is .*{message}"):
            exposure_bench.axes_of(flags_of(name, value))


def test_cells_are_paired_with_plain_ddim():
    rng = np.random.default_rng(1)
    left_out = 1 + 0.01 * rng.standard_normal(10)
    told = {
        way: {"fd": 1 + off, "fd_error": 0.1, "left_out": (left_out + off).tolist()}
        | {"gap": [0.2, 0.4], "delta": {"value": 0.1, "error": 0.01}}
        for way, off in (("plain", 0.0), ("time shift", 0.5))
    }
    plain, shifted = exposure_bench.cells_of(told, norm=2.0)
    assert plain["gap"] == pytest.approx(0.15) and "less_plain" not in plain
    assert shifted["less_plain"] == pytest.approx(0.5) and shifted["verdict"] == "higher"
    assert shifted["less_plain_error"] < 1e-9


class Pixels(torch.nn.Module):
    dim = 40

    def forward(self, x):
        return {"pool": x.flatten(1)[:, : self.dim].float()}


@pytest.mark.parametrize("samples", [40, 41])
def test_too_few_samples_for_the_features_are_told(tmp_path, monkeypatch, capsys, samples):
    """Of so many numbers an image, as many samples have a covariance that is singular."""
    np.savez(tmp_path / "data.npz", arr_0=IMAGES)
    flags = flags_of("--num_samples", str(samples), "--data_dir", str(tmp_path / "data.npz"))
    features = Features("toy", Pixels(), "toy")
    monkeypatch.setattr(evaluation, "network", lambda *_: features)
    monkeypatch.setattr(evaluation, "default_cache_dir", lambda: "")
    _, (mu, sigma), dataset = evaluation.judge(flags.bench, flags.data, 8, 0)
    assert len(dataset.squares(progress=False)) == len(IMAGES)
    real = IMAGES.transpose(0, 3, 1, 2).reshape(len(IMAGES), -1)[:, : Pixels.dim]
    assert np.allclose(mu, real.mean(0)) and np.allclose(sigma, np.cov(real.T))
    assert ("singular" in capsys.readouterr().out) == (samples == 40)


@pytest.mark.slow
def test_the_bench_finds_the_distance_of_sampled_images(tmp_path):
    """Also with epsilon scaling and shifted timesteps; and it goes on where it was."""
    np.savez(tmp_path / "data.npz", arr_0=IMAGES)
    model, diffusion = groups(diffusion_steps=40)
    save_run(tmp_path / "run", network()[0], model=model, diffusion=diffusion)
    path, out = tmp_path / "run" / "model000000.pt", tmp_path / "out"
    command = [sys.executable, script("exposure_bench"), "--data_dir", tmp_path / "data.npz"]
    command += ["--model_path", path, "--log_dir", out, "--features", "digits"]
    command += ["--chain_steps", 4, "--weight_bits", "32,4", "--num_samples", 40]
    command += ["--scalings", "0.9,1,1.1,1.2", "--cutoff", 5, "--delta_images", 5]
    succeed(run(command))
    found = json.loads((out / "exposure_bench.json").read_text())
    cells = {(c["bits"], c["way"]): c for c in found["models"][0]["cells"]}
    assert len(cells) == 10 and (out / "exposure_bench.png").exists()
    for way, more in (
        ("eps / 1.1", ["--sampler", "ddim", "--eps_scaler", 1.1]),
        ("time shift", ["--sampler", "shifted cutoff=5"]),
    ):
        folder = tmp_path / way.replace(" / ", "_").replace(" ", "_")
        sample = [sys.executable, script("image_sample"), "--model_path", path, "--log_dir", folder]
        sample += ["--num_samples", 40, "--timestep_respacing", 4, *more]
        succeed(run(sample))
        expected = evaluate(IMAGES, folder / "samples_40x8x8x3.npz", "digits")["metrics"]
        assert cells[32, way]["fd"] == pytest.approx(expected["FD-digits"], rel=1e-3)
        assert cells[32, way]["fd_error"] == pytest.approx(expected["FD-digits_error"], rel=1e-2)
    assert cells[4, "plain"]["fd"] != cells[32, "plain"]["fd"]
    again = succeed(run(command))
    assert "5 results are known already" in again.stdout
