"""A study of moved networks from checkpoints: files, ranks, interruptions, and bad input."""

import csv
import json
import runpy
from dataclasses import replace

import numpy as np
import pytest
import torch
from flatness_studies import DIFFUSION, MODEL
from launch import ROOT, mpirun

from flatdiff.flags import config
from flatdiff.measure import evaluation, perturbed_run
from flatdiff.measure.perturbed_samples import PERTURBED, Sampled
from flatdiff.models import networks
from flatdiff.store import checkpoint

GROUPS = {
    "sample": config.PerturbedFlags,
    "run": config.RunFlags,
    "data": config.DataFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
    "train": config.TrainFlags,
}
MOVES = "gaussian sigma=0.01,climb rho=0.1,quantized bits=4,quantized bits=3"


FIGURES = PERTURBED.figures


class Means(torch.nn.Module):
    dim = 3

    def forward(self, images):
        return {"pool": images.float().mean((2, 3))}


@pytest.fixture(autouse=True)
def features(monkeypatch):
    known = evaluation.load_features

    def load(name, *args):
        made = known("digits", *args) if name == "digits" else None
        return made or evaluation.Features("means", Means(), "means")

    monkeypatch.setattr(evaluation, "load_features", load)
    evaluation.network.cache_clear()
    monkeypatch.setattr(PERTURBED, "figures", lambda *_: {})  # which take long
    yield
    evaluation.network.cache_clear()


def arguments(folder, log_dir, *more):
    fixed = {
        "model_path": f"{folder}/runs/*/*",
        "data_dir": f"{folder}/images.npz",
        "log_dir": log_dir,
        "moves": MOVES,
        "num_draws": 2,
        "num_samples": 50,
        "batch_size": 20,
        "num_images": 8,
        "timestep_respacing": 3,
    }
    return [str(x) for k, v in fixed.items() for x in (f"--{k}", v)] + list(map(str, more))


def study(argv):
    runpy.run_path(str(ROOT / "scripts/perturbed_samples.py"))["measure"](
        config.parse("", argv, **GROUPS)
    )


def record_of(log_dir):
    return json.loads((log_dir / "perturbed_samples.json").read_text())


@pytest.fixture(scope="module")
def alone(folder):
    return folder / "alone"


@pytest.fixture
def done(folder, alone, features, monkeypatch):
    if not alone.exists():
        with monkeypatch.context() as patch:
            patch.setattr(PERTURBED, "figures", FIGURES)
            study(arguments(folder, alone))
    return record_of(alone)


def test_the_record_and_its_files(folder, alone, done):
    assert [m["name"] for m in done["models"]] == ["a/model000007", "b/ema_0.9_000007"]
    for model in done["models"]:
        kinds = [(m["kind"], m["size"], m["draw"]) for m in model["moves"]]
        assert kinds == [
            ("gaussian", 0.01, 0),
            ("gaussian", 0.01, 1),
            ("climb", 0.1, 0),
            ("quantized", 4, 0),
            ("quantized", 3, 0),
        ]
        assert model["moves"][2]["distance"] == pytest.approx(0.1, rel=1e-4)
        assert all(len(m["path"]["value"]) == 3 for m in model["moves"])
        assert len(model["sha256"]) == 64 and model["correlation"]["moves"] == 5
    assert done["correlation"]["moves"] == 10
    with open(alone / "perturbed_samples.csv") as file:
        assert len(list(csv.DictReader(file))) == 10
    for name in ("perturbed_samples.png", "perturbed_samples_path.png"):
        assert (alone / name).read_bytes().startswith(b"\x89PNG")
        assert str(alone / name) in (alone / "log.txt").read_text()


def test_losses_are_of_training_and_samples_of_the_respaced_chain(folder, done):
    """The loss at w is that of flatness on the same images and all timesteps."""
    assert {m["timesteps"] for m in done["models"]} == {DIFFUSION.diffusion_steps}
    flags = config.parse("", arguments(folder, "x"), **GROUPS)
    path = f"{folder}/runs/a/model000007.pt"
    assert networks.chain_of(path, flags).num_timesteps == 40
    assert networks.chain_of(path, flags, "3").num_timesteps == 3


def test_a_move_all_the_way_is_the_other_network(folder, tmp_path):
    """Samples and losses of `towards share=1` are those of the other file."""
    a, b = f"{folder}/runs/a/model000007.pt", f"{folder}/runs/b/ema_0.9_000007.pt"
    more = ("--moves", "towards share=1", "--average_path", b, "--model_path", a)
    study(arguments(folder, tmp_path / "there", *more))
    study(arguments(folder, tmp_path / "it", "--moves", "climb rho=0.1", "--model_path", b))
    (there,), (it,) = (record_of(tmp_path / n)["models"] for n in ("there", "it"))
    (move,) = there["moves"]
    assert move["fd"] == pytest.approx(it["fd"], rel=1e-6)
    log = (tmp_path / "there/perturbed_samples_parts/rank0.jsonl").read_text()
    study(arguments(folder, tmp_path / "there", *more[:2], "--average_path", a, *more[4:]))
    assert record_of(tmp_path / "there")["models"][0]["moves"][0]["distance"] == 0
    kept = (tmp_path / "there/perturbed_samples_parts/rank0.jsonl").read_text()
    assert kept.startswith(log) and kept.count("towards") == 2  # another file: another move
    at_w = it["at_w"]["mse"]["losses"][0] - there["at_w"]["mse"]["losses"][0]
    assert move["rise"] == pytest.approx(at_w, rel=1e-5)


def test_no_direction_is_fitted_to_an_image_that_is_measured(folder, tmp_path, monkeypatch, capsys):
    """Also where there are fewer than twice as many images as were asked for, which is told."""
    real, starts = perturbed_run.Sampled, []
    monkeypatch.setattr(perturbed_run, "Sampled", lambda *a: starts.append(a[0]) or real(*a))
    more = ("--model_path", f"{folder}/runs/a/*", "--moves", "climb rho=0.1", "--num_images", 12)
    study(arguments(folder, tmp_path, *more))
    (start,) = starts
    measured, fitted = ({x.numpy().tobytes() for x in of.draws.x_start} for of in
                        (start.subject, start.guide))  # fmt: skip
    assert len(measured) == len(fitted) == 8 and not measured & fitted
    assert "there are 16 images, and num_images is 12: 8 are measured" in capsys.readouterr().out


def test_an_interrupted_study_goes_on(folder, done, tmp_path, monkeypatch):
    real, seen = Sampled.walked, []

    def walked(self, told):
        seen.append(told)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(self, told)

    monkeypatch.setattr(Sampled, "walked", walked)
    argv = arguments(folder, tmp_path, "--model_path", f"{folder}/runs/a/*")
    with pytest.raises(KeyboardInterrupt):
        study(argv)
    study(argv)
    found, expected = record_of(tmp_path)["models"][0], done["models"][0]
    assert found | {"name": ""} == expected | {"name": ""}
    assert len(seen) == 4 + 4  # w again, to compare with, and what was left
    study(argv)
    assert len(seen) == 8
    study(argv + ["--moves", MOVES + ",pruned share=0.5"])
    assert len(seen) == 8 + 2  # w and the new one
    other = argv + ["--seed", "1", "--moves", "pruned share=0.5"]
    with pytest.raises(ValueError, match="--seed was 0 and is 1"):
        study(other)
    (tmp_path / "perturbed_samples.json").unlink()
    study(other)
    assert len(seen) == 10 + 2


@pytest.mark.slow
def test_two_ranks_find_the_same(folder, done, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
sys.path.insert(0, {str(ROOT / "tests/measure")!r})
import test_perturbed_run as test
from flatdiff.measure import evaluation, perturbed_samples
from flatdiff.world import dist_util
evaluation.load_features = lambda *_: evaluation.Features("means", test.Means(), "means")
perturbed_samples.PERTURBED.figures = lambda *_: dict()
with dist_util.session():
    test.study(test.arguments({str(folder)!r}, {str(tmp_path)!r}))
"""
    finished = mpirun(2, "-c", code)
    assert finished.returncode == 0, finished.stderr
    for name in ("models", "correlation", "rows"):
        assert record_of(tmp_path)[name] == done[name]


def test_a_class_conditional_network(folder, tmp_path):
    model = replace(MODEL, class_cond=True, num_classes=2)
    network, _ = networks.build(model, DIFFUSION)
    path = tmp_path / "model000001.pt"
    checkpoint.save(network.state_dict(), str(path))
    checkpoint.save_json(
        {"model": vars(model), "diffusion": vars(DIFFUSION)}, str(tmp_path / "config.json")
    )
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", arr_0=images, arr_1=np.arange(12) % 2)
    more = ("--model_path", path, "--data_dir", tmp_path / "data.npz", "--class_labels", 1)
    more += ("--moves", "climb rho=0.1")
    study(arguments(folder, tmp_path / "out", *more))
    assert record_of(tmp_path / "out")["models"][0]["num_weights"] == sum(
        w.numel() for w in network.parameters()
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data_dir", ""), "no data: give --data_dir"),
        (("--model_path", ""), "no checkpoint"),
        (("--model_path", "{folder}/nope.pt"), "no file .*nope.pt"),
        (("--moves", "towards"), "towards: give --average_path"),
        (("--moves", "climb rho=x"), "climb, rho: got 'x', expected a number"),
        (("--moves", "quantized bits=1"), "quantized, bits: got 1, expected 2 to 8"),
        (("--sampler", "ddim eta=x"), "ddim, eta: got 'x'"),
    ],
)
def test_bad_flags_are_refused_before_any_work(folder, tmp_path, more, message):
    argv = [x.format(folder=folder) for x in more]
    with pytest.raises(ValueError, match=message):
        study(arguments(folder, tmp_path / "out", *argv))
    assert not (tmp_path / "out").exists()


def test_too_few_samples_are_refused_by_the_command_line(folder, capsys):
    with pytest.raises(SystemExit):
        study(arguments(folder, "x", "--num_samples", 1))
    assert "--num_samples: got '1', expected 50 or more" in capsys.readouterr().err


def test_an_average_of_another_network_is_refused(folder, tmp_path, monkeypatch):
    network, _ = networks.build(replace(MODEL, num_channels=64), DIFFUSION)
    checkpoint.save(network.state_dict(), str(tmp_path / "model000001.pt"))
    groups = {"model": vars(MODEL) | {"num_channels": 64}, "diffusion": vars(DIFFUSION)}
    checkpoint.save_json(groups, str(tmp_path / "config.json"))
    monkeypatch.setattr(Sampled, "walked", lambda *_: pytest.fail("it was sampled"))
    more = ("--average_path", tmp_path / "model000001.pt", "--moves", "climb,towards")
    with pytest.raises(ValueError, match="--average_path .* is of another network than .*/a/model"):
        study(arguments(folder, tmp_path / "out", *more))
    with pytest.raises(ValueError, match=r"nope\.pt"):
        study(
            arguments(folder, tmp_path / "out", "--average_path", "nope.pt", "--moves", "towards")
        )


def test_networks_of_several_sizes_are_refused(folder, tmp_path):
    network, _ = networks.build(replace(MODEL, image_size=16), DIFFUSION)
    checkpoint.save(network.state_dict(), str(tmp_path / "model000001.pt"))
    groups = {"model": vars(MODEL) | {"image_size": 16}, "diffusion": vars(DIFFUSION)}
    checkpoint.save_json(groups, str(tmp_path / "config.json"))
    paths = f"{folder}/runs/a/model000007.pt,{tmp_path}/model000001.pt"
    with pytest.raises(ValueError, match="image_size 16 and .* 8, so their distances"):
        study(arguments(folder, tmp_path / "out", "--model_path", paths))


def test_fewer_samples_than_features_are_told(folder, tmp_path, capsys):
    Means.dim = 60
    try:
        study(arguments(folder, tmp_path, "--moves", "quantized bits=4"))
    finally:
        Means.dim = 3
    assert "50 samples for 60 features" in capsys.readouterr().out
