"""A vision transformer through the scripts: trained on digits, resumed, sampled, measured."""

import csv

import numpy as np
import pytest
from sklearn.datasets import load_digits
from small import go_on, same_weights, save_images, words

from flatdiff.flags import config
from flatdiff.models import networks
from flatdiff.nets.vit import ViT
from flatdiff.store import checkpoint

NETWORK = words(
    network="vit", image_size=8, patch_size=2, num_channels=32, num_layers=2, num_heads=2,
    class_cond=True, num_classes=10, learn_sigma=True, diffusion_steps=100,
    noise_schedule="cosine", dropout=0.1,
)  # fmt: skip
TRAIN = words(
    lr=3e-3, batch_size=32, end_step=60, ema_rate=0.9, log_interval=10, save_interval=30,
    num_workers=0, random_flip=False, optimizer="adam-sam", rho=0.05,
)  # fmt: skip
FEW = words(num_images=32, batch_size=32, num_workers=0)


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    digits = load_digits()
    grey = (digits.images[:200] * 255 / 16).astype(np.uint8)
    names = [f"{label}_{i:03d}" for i, label in enumerate(digits.target[:200])]
    home = tmp_path_factory.mktemp("vit")
    save_images(home / "images", np.stack([grey] * 3, axis=-1), names)
    return home


@pytest.fixture(scope="module")
def train(folder, call):
    """A function of a folder and more flags."""
    given = ["--data_dir", folder / "images", *NETWORK, *TRAIN]
    return lambda out, *flags: call("image_train", *given, "--log_dir", out, *flags)


@pytest.fixture(scope="module")
def trained(folder, train):
    """A training's folder, and its last file."""
    train(folder / "run")
    return folder / "run/model000060.pt"


def test_sixty_steps_learn_and_a_resumed_run_is_the_same(folder, trained, train):
    losses = [float(row["mse"]) for row in rows(folder / "run/progress.csv")]
    assert losses[-1] < 0.6 < losses[0] < 1.1, "zeros, as a new one gives, are 1 from the noise"
    go_on(folder / "run", folder / "resumed", 30)
    train(folder / "resumed", "--resume", "auto")
    for name in ("model000060.pt", "ema_0.9_000060.pt"):
        assert same_weights(folder / "run" / name, folder / "resumed" / name)


def test_flags_that_a_network_has_no_use_for_are_told(folder, train):
    train(folder / "idle", "--end_step", "1", "--channel_mult", "1,2", "--num_layers", "1")
    told = (folder / "idle/log.txt").read_text()
    assert "--channel_mult has no effect on --network vit" in told and "num_layers" not in told
    flags = words(network="unet", num_res_blocks=1, attention_resolutions=4, channel_mult=1)
    train(folder / "idle_unet", "--end_step", "1", *flags)
    told = (folder / "idle_unet/log.txt").read_text()
    for name in ("patch_size", "num_layers"):
        assert f"--{name} has no effect on --network unet" in told
    assert told.count("on --network") == 2


def test_samples_are_of_the_file_whatever_holds_its_weights(folder, trained, call):
    """Packed weights give the images of the simulation; int8 convolves patches, nearly the same."""
    how = ["--model_path", trained, *words(num_samples=6, batch_size=4, timestep_respacing=10)]

    def sample(name, *flags, suffix=""):
        call("image_sample", *how, "--log_dir", folder / name, *flags)
        with np.load(folder / name / f"samples_6x8x8x3{suffix}.npz") as file:
            return file["arr_0"].astype(int)

    bits = {}
    for bit in (8, 4):
        quant = ["--quant", bit, "--quant_granularity", "channel"]
        bits[bit] = simulated = sample(f"w{bit}", *quant, suffix=f"_w{bit}")
        packed = sample(f"p{bit}", *quant, "--quant_backend", "packed", suffix=f"_w{bit}")
        assert np.array_equal(packed, simulated)
    plain = sample("plain")
    far = [np.abs(bits[bit] - plain).mean() for bit in (8, 4)]
    assert 0 < far[0] < far[1] / 4
    both = ["--quant", 8, "--quant_activations", 8, "--quant_symmetric", "True"]
    simulated = sample("w8a8", *both, suffix="_w8a8")
    integers = sample("int8", *both, "--quant_backend", "int8", suffix="_w8a8")
    assert np.abs(integers - simulated).mean() < 1
    assert "int8 arithmetic in 1 layers" in (folder / "int8/log.txt").read_text()


def test_noise_rises_as_the_trace_of_the_hessian_tells(folder, trained, call):
    """E L(w + sigma z) - L(w) is sigma^2 / 2 tr H where sigma is small, and along random directions
    of length r it is r^2 / (2 n) tr H; the Hessian is that of two derivatives, and of differences.
    """
    how = ["--model_path", trained, "--data_dir", folder / "images", *FEW, "--num_draws", 8]

    def measured(kind, *flags):
        name, out = kind.split()[0], folder / kind.replace(" ", "_")
        call("flatness", *how, "--flatness", kind, *flags, "--log_dir", out)
        return rows(out / f"flatness_{name}.csv")

    kinds = ("HESSIAN", "HESSIAN product=exact")
    traces, exact = (measured(kind, "--num_eigenvalues", 1) for kind in kinds)
    for a, b in zip(traces, exact, strict=True):
        assert float(a["value"]) == pytest.approx(float(b["value"]), rel=1e-3)
    trace, error = float(exact[0]["value"]), float(exact[0]["error"])
    assert trace > float(exact[1]["value"]) > 0
    num_weights = sum(w.numel() for w in checkpoint.load(str(trained)).values())
    noise, sphere = measured("LPF", "--sigma", "1e-3")[0], measured("MC", "--radius", "0.3")[0]
    for row, factor in ((noise, 1e-6 / 2), (sphere, 0.3**2 / (2 * num_weights))):
        both = np.hypot(float(row["error"]), factor * error)
        assert abs(float(row["rise"]) - factor * trace) < 3 * both < factor * trace


def test_exposure_bias_and_likelihood(folder, trained, call):
    how = ["--model_path", trained, "--data_dir", folder / "images", "--num_workers", 0]
    few = words(num_images=8, batch_size=8, timestep_respacing=5)
    call("exposure_bias", *how, *few, "--log_dir", folder / "exposure")
    norms = [float(row["training"]) for row in rows(folder / "exposure/exposure_bias.csv")]
    assert len(norms) == 5 and norms[-1] == pytest.approx(192**0.5, rel=0.2)  # almost all noise
    few = words(num_samples=8, batch_size=8, timestep_respacing=10)
    call("image_nll", *how, *few, "--log_dir", folder / "nll")
    with np.load(folder / "nll/vb_terms.npz") as file:
        assert file["arr_0"].shape == (10,) and 0 < file["arr_0"].sum() < 10


def test_the_file_says_what_it_holds(folder, trained):
    flags = config.parse(
        "", [], model=config.ModelFlags, diffusion=config.DiffusionFlags, run=config.RunFlags
    )
    model, _ = networks.from_checkpoint(str(trained), flags)
    assert isinstance(model, ViT) and model.num_classes == 10 and len(model.classes) == 10
    flags.given["patch_size"] = 4
    with pytest.raises(ValueError, match="--patch_size 4 contradicts.*trained with --patch_size 2"):
        networks.from_checkpoint(str(trained), flags)
