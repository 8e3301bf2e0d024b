"""CONTRIBUTING.md's examples: each is put where its first line says, registered, and used."""

import contextlib
import importlib
import json
import math
import re
import runpy
import sys

import numpy as np
import pytest
import torch
from launch import ROOT
from small import FLAGS, groups, images, network, save_run, words

import flatdiff
from flatdiff.flags import choices, config
from flatdiff.judge import names
from flatdiff.store import checkpoint

BLOCK = re.compile(r"```python\n# flatdiff/(\S+?)\.py(?:, in (\w+))?\n(.*?)```", re.S)
TABLES = (
    "NETWORKS OBJECTIVES SAMPLERS GRADIENTS OPTIMIZERS AVERAGES QUANTIZERS MEASURES FLATNESS "
    "FEATURES"
).split()


@pytest.fixture(scope="module", autouse=True)
def examples(tmp_path_factory):
    """The page's files beside flatdiff's own, and its lines in the tables."""
    home, saved = tmp_path_factory.mktemp("house"), [dict(getattr(choices, t)) for t in TABLES]
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    files = {path: code for path, table, code in blocks if not table}
    with pytest.MonkeyPatch.context() as patch:
        for wing in {path.partition("/")[0] for path in files}:
            (home / wing).mkdir()
            package = importlib.import_module(f"flatdiff.{wing}")
            patch.setattr(package, "__path__", [*package.__path__, str(home / wing)])
        for path, code in files.items():
            (home / f"{path}.py").write_text(code)
        for path, table, code in blocks:
            if path == "flags/choices":
                line = eval("{" + code + "}", vars(choices))
                getattr(choices, table).update(line)
                choices.FLATNESS.update(line if table == "MEASURES" else {})
            elif path == "judge/names":
                line = eval("{" + code + "}")
                patch.setattr(names, "FEATURES", names.FEATURES)
                names.FEATURES.update(line)
                ((name, (where, told)),) = line.items()
                choices.FEATURES[name] = choices.Choice(f"judge.{where}", told)
        yield
        for name in names.FEATURES.keys() - saved[-1].keys():
            del names.FEATURES[name]
    for table, before in zip(TABLES, saved):
        getattr(choices, table).clear()
        getattr(choices, table).update(before)
    for path in files:
        sys.modules.pop("flatdiff." + path.replace("/", "."), None)
        with contextlib.suppress(AttributeError):
            delattr(getattr(flatdiff, path.split("/")[0]), path.split("/")[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a tiny network, and twelve images."""
    folder = tmp_path_factory.mktemp("run")
    np.savez(folder / "images.npz", arr_0=images(12))
    model, diffusion = groups()
    save_run(folder, network()[0], model=model, diffusion=diffusion)
    return folder


@pytest.fixture
def flatdiff_run(monkeypatch, capsys):
    """A function that runs a script of the repository on words, and gives what it printed."""

    def run(script, *argv):
        monkeypatch.setattr(sys, "argv", [script, *map(str, argv)])
        monkeypatch.syspath_prepend(str((ROOT / script).parent))
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(ROOT / script), run_name="__main__")
        return " ".join("".join(capsys.readouterr()).split())

    return run


def train(run, folder, log_dir, *flags):
    data = ["--data_dir", folder / "images.npz", "--log_dir", log_dir, "--num_workers", 0]
    few = "--batch_size 4 --end_step 2 --ema_rate 0.9 --random_flip False --lr 0.1".split()
    return run("scripts/image_train.py", *data, *words(**FLAGS), *few, *flags)


def test_a_network(flatdiff_run, folder, tmp_path):
    """Three hidden layers, in a file that says so: it is loaded, sampled in 4 bits and measured."""
    script = "scripts/image_sample_quant.py"
    assert "mlp: a perceptron over all pixels" in flatdiff_run(script, "--help")
    told = train(flatdiff_run, folder, tmp_path / "run", "--network", "mlp depth=3")
    assert "--channel_mult has no effect on --network mlp depth=3" in told
    assert "num_channels has no effect" not in told
    path = tmp_path / "run/model000002.pt"
    layers = {name.split(".")[1] for name in checkpoint.load(str(path)) if "hidden" in name}
    assert layers == {"0", "1", "2"}
    few = ["--model_path", path, "--num_samples", 2, "--timestep_respacing", 2, "--quant", 4]
    told = flatdiff_run(script, *few, "--log_dir", tmp_path / "samples")
    assert "quantized: 5 layers to 4 bits" in told and "samples_2x8x8x3_w4.npz" in told
    data = ["--data_dir", folder / "images.npz", "--num_images", 8, "--log_dir", tmp_path / "flat"]
    how = ["--model_path", path, "--sigma", "1e-3", "--num_draws", 4]
    assert "LPF" in flatdiff_run("scripts/flatness.py", *how, *data)
    assert (tmp_path / "flat/flatness_LPF.csv").exists()
    wrong = ["--network", "mlp dept=3"]
    assert "mlp has no knob 'dept'; it has depth" in train(
        flatdiff_run, folder, tmp_path / "no", *wrong
    )


def test_an_objective(flatdiff_run, folder, tmp_path):
    """It is trained, sampled and measured; v is the derivative of x_t by u, by differences."""
    how = ["--objective", "trig", "--learn_sigma", "False"]
    told = train(flatdiff_run, folder, tmp_path / "run", *how)
    assert "objective: trig" in told
    path = tmp_path / "run/model000002.pt"
    few = ["--model_path", path, "--num_samples", 2, "--timestep_respacing", 3]
    how = ["--sampler", "heun", "--log_dir", tmp_path / "samples"]
    assert "samples_2x8x8x3.npz" in flatdiff_run("scripts/image_sample.py", *few, *how)
    data = ["--data_dir", folder / "images.npz", "--num_images", 8, "--log_dir", tmp_path / "flat"]
    moves = ["--model_path", path, "--sigma", "1e-3", "--num_draws", 4]
    assert "x_mse" in flatdiff_run("scripts/flatness.py", *moves, *data)
    flags = vars(config.DiffusionFlags(objective="trig", diffusion_steps=4))
    chain = choices.bound(choices.OBJECTIVES, "trig")(flags)
    u = chain.times / 1000
    assert chain.alphas == pytest.approx(np.cos(u)) and chain.sigmas == pytest.approx(np.sin(u))
    small = 1e-6
    by_x, by_eps = ((f(u + small) - f(u - small)) / (2 * small) for f in (np.cos, np.sin))
    assert chain.to_x == pytest.approx(by_x) and chain.to_eps == pytest.approx(by_eps)


def test_a_sampler(flatdiff_run, folder, tmp_path):
    """Of eta 0 it is DDIM to the bit; its default is not."""
    assert "interpolated: a share eta of DDPM's noise" in flatdiff_run(
        "scripts/image_sample.py", "--help"
    )
    found = {}
    for i, sampler in enumerate(("ddim", "interpolated eta=0", "interpolated", "interpolated e=1")):
        told = flatdiff_run(
            "scripts/image_sample.py", "--model_path", folder / "model000000.pt", "--log_dir",
            tmp_path / str(i), "--num_samples", 3, "--timestep_respacing", 4, "--sampler", sampler,
        )  # fmt: skip
        if i == 3:
            assert "interpolated has no knob 'e'; it has eta" in told
        else:
            found[sampler] = np.load(tmp_path / str(i) / "samples_3x8x8x3.npz")["arr_0"]
    assert np.array_equal(found["ddim"], found["interpolated eta=0"])
    assert not np.array_equal(found["ddim"], found["interpolated"])


def test_a_gradient():
    """On a x^2 / 2 it is a (x - rho sign(x)), where SAM's is a (x + rho sign(x))."""
    w = torch.tensor([3.0], requires_grad=True)

    def closure():
        (2.0 * w**2 / 2).sum().backward()

    for name, expected in (("adam-extra", 2 * (3 - 0.5)), ("adam-sam", 2 * (3 + 0.5))):
        w.grad = None
        follow = choices.bound(choices.GRADIENTS, name)
        follow(closure, [w], rho=0.5, ascent=closure, momenta=lambda: [None], look=None)
        assert w.item() == 3 and w.grad.item() == pytest.approx(expected)


def test_a_gradient_and_an_optimizer_train(flatdiff_run, folder, tmp_path):
    """The state is that of RMSprop with this momentum, and a resumed run is the run not stopped."""
    help = flatdiff_run("scripts/image_train.py", "--help")
    assert "adam-extra: rho downhill" in help and "rmsprop: in units of the" in help
    flags = ["--optimizer", "adam-extra", "--base_optimizer", "rmsprop momentum=0.5"]
    told = train(flatdiff_run, folder, tmp_path, *flags)
    assert "gradient: adam-extra with rho 0.05" in told
    kept = checkpoint.load(str(tmp_path / "opt000002.pt"))
    assert kept["param_groups"][0]["momentum"] == 0.5
    assert all("momentum_buffer" in s for s in kept["state"].values())
    more = ["--end_step", "4", "--resume", "auto"]
    assert "saved" in train(flatdiff_run, folder, tmp_path, *flags, *more)
    whole = tmp_path / "whole"
    train(flatdiff_run, folder, whole, *flags, "--end_step", "4")
    a, b = (checkpoint.load(str(f / "model000004.pt")) for f in (tmp_path, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_average(flatdiff_run, folder, tmp_path):
    """Of weights 1, 2, ..., n and eta 1 it is their mean with shares 2 t / (n (n + 1))."""
    average = choices.bound(choices.AVERAGES, "polynomial eta=1")([torch.zeros(1)])
    n = 5
    for t in range(1, n + 1):
        average.update([torch.tensor([float(t)])])
    shares = [2 * t / (n * (n + 1)) for t in range(1, n + 1)]
    mean = math.fsum(share * t for t, share in enumerate(shares, 1))
    assert average.weights[0].item() == pytest.approx(mean)
    assert "polynomial: polynomial decay" in flatdiff_run("scripts/image_train.py", "--help")
    flags = ["--averages", "polynomial eta=1", "--save_interval", "1"]
    assert "polynomial eta=1" in train(flatdiff_run, folder, tmp_path, *flags)
    first, second, mean = (
        checkpoint.load(str(tmp_path / name))["out.2.bias"]
        for name in ("model000001.pt", "model000002.pt", "average_polynomial_eta=1_000002.pt")
    )
    assert torch.allclose(mean, first / 3 + 2 / 3 * second, atol=1e-7)
    more = ["--end_step", "3", "--resume", "auto"]
    train(flatdiff_run, folder, tmp_path, *flags, *more)
    assert checkpoint.load(str(tmp_path / "state000003.pt"))["average_polynomial_eta=1"] == {
        "count": 3
    }


def test_a_quantizer(flatdiff_run, folder, tmp_path):
    """Of 0 .. 100 the middle half is 25 .. 75: all others are clamped to these."""
    from flatdiff.quantization.grid import Quantizer

    ends = choices.bound(choices.QUANTIZERS, "percentile share=0.5")
    found = Quantizer(8, ends=ends)(torch.arange(101.0)).dequantize()
    assert [found.max().item(), found[50].item()] == pytest.approx([75, 50], abs=0.2)
    script = "scripts/image_sample_quant.py"
    assert "percentile: where the share of all weights ends" in flatdiff_run(script, "--help")
    told = flatdiff_run(
        script, "--model_path", folder / "model000000.pt", "--log_dir", tmp_path,
        "--num_samples", 2, "--timestep_respacing", 2, "--quant_range", "percentile share=0.9",
    )  # fmt: skip
    assert "8 bits (per tensor, percentile share=0.9)" in told


def test_a_measure(flatdiff_run, folder, tmp_path):
    """||dL/dw|| by autograd on the same draws; twice as long of scale 2; found, told and drawn."""
    help = flatdiff_run("scripts/flatness.py", "--help")
    assert "GRADIENT: length of the gradient" in help
    about = ["--model_path", folder / "model000000.pt", "--data_dir", folder / "images.npz"]
    about += ["--num_images", 8, "--log_dir", tmp_path]
    told = [flatdiff_run("scripts/flatness.py", *about, "--flatness", "GRADIENT") for _ in range(2)]
    assert "1 results are known already" in told[1] and "known already" not in told[0]
    record = json.loads((tmp_path / "flatness.json").read_text())["GRADIENT"]
    (model,) = record["models"]
    assert model["gradient"] > 0 and (tmp_path / "flatness_GRADIENT.csv").read_text().startswith(
        "model,"
    )
    assert (tmp_path / "flatness_GRADIENT.png").stat().st_size > 1000
    assert choices.MEASURES["GRADIENT"].load().shown(model) == {"length": model["gradient"]}
    about[-1] = tmp_path / "twice"
    flatdiff_run("scripts/flatness.py", *about, "--flatness", "GRADIENT scale=2")
    (twice,) = json.loads((about[-1] / "flatness.json").read_text())["GRADIENT"]["models"]
    assert twice["gradient"] == pytest.approx(2 * model["gradient"])


def test_features(flatdiff_run, tmp_path):
    """FD of two sets of channel means is the distance of two normals in three dimensions."""
    a, b = images(40), images(40, seed=1) // 2
    np.savez(tmp_path / "a.npz", arr_0=a)
    np.savez(tmp_path / "b.npz", arr_0=b)
    script = "evaluations/evaluator.py"
    assert "means" in flatdiff_run(script, "--help")
    flatdiff_run(
        script, tmp_path / "a.npz", tmp_path / "b.npz", "--features", "means", "--json",
        tmp_path / "found.json", "--cache_dir", "",
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())["metrics"]["FD-means"]
    x, y = (p.reshape(40, -1, 3).mean(1) for p in (a, b))
    difference = ((x.mean(0) - y.mean(0)) ** 2).sum()
    s, t = np.cov(x.T), np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(s @ t).real.clip(0)).sum()
    assert found == pytest.approx(difference + np.trace(s) + np.trace(t) - 2 * root, rel=1e-3)


def test_a_knob_of_training(monkeypatch):
    """The line, in a TrainFlags of its own, is a flag and an attribute of TrainLoop."""
    import dataclasses

    from training import loop

    from flatdiff.train import train_util

    (line,) = [
        c for p, t, c in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text()) if t == "TrainFlags"
    ]
    scope = {"flag": config.flag, "config": config, "dataclasses": dataclasses}
    body = f"@dataclasses.dataclass(frozen=True)\nclass More(config.TrainFlags):\n    {line}"
    exec(body, scope)
    assert config.parse("", ["--clip_grad", "2"], train=scope["More"]).train.clip_grad == 2.0
    monkeypatch.setattr(train_util, "TrainFlags", scope["More"])
    assert loop(clip_grad=3.0).clip_grad == 3.0 and loop().clip_grad == 0.0
