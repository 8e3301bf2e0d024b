"""Super-resolution as a user asks for it: resumed, and images by another sampler's numbers."""

import shutil

import numpy as np
import pytest
import torch
from small import CONDITIONAL as FLAGS
from small import TRAIN, coloured, data, go_on, random_weights, same_weights

from flatdiff import script_util
from flatdiff.models.generate import ImageNoise
from flatdiff.nets.unet import SuperResModel
from flatdiff.store import checkpoint

SIZE = FLAGS.index("--image_size")
CHAINED = FLAGS[:SIZE] + FLAGS[SIZE + 2 :]  # for networks of two sizes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return coloured(tmp_path_factory.mktemp("scripts"))


@pytest.fixture(scope="module")
def upsampler(folder, call):
    out, sizes = folder / "sr", "--large_size 8 --small_size 4 --end_step 2 --save_interval 1"
    flags = [*data(folder), *CHAINED, *TRAIN, *sizes.split(), "--ema_rate", "0.9"]
    call("super_res_train", *flags, "--log_dir", out, "--sample_interval", "2")
    assert (out / "samples_000002.png").exists()
    go_on(out, folder / "sr_resumed", 1)
    call("super_res_train", *flags, "--log_dir", folder / "sr_resumed", "--resume", "auto")
    return out


def test_a_resumed_upsampler_is_the_one_that_was_never_stopped(folder, upsampler):
    for name in ("model000002.pt", "ema_0.9_000002.pt"):
        assert same_weights(upsampler / name, folder / "sr_resumed" / name)


@pytest.fixture(scope="module")
def enlarge(folder, upsampler, call):
    """A function of flags that gives (images as numbers, labels) of image_sample's kind."""
    shutil.copytree(upsampler, folder / "sr_random")
    path = random_weights(folder / "sr_random/model000002.pt")
    images = np.random.default_rng(2).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    np.savez(folder / "base.npz", images, np.array([2, 0, 1]))

    def run(*flags):
        out = folder / f"enlarged_{'_'.join(flags)}"
        fixed = ["--model_path", path, "--base_samples", folder / "base.npz", "--log_dir", out]
        call("super_res_sample", *fixed, "--num_samples", 5, "--seed", 4, *flags)
        with np.load(out / "samples_5x8x8x3.npz") as file:
            return file["arr_0"].astype(int), file["arr_1"].tolist()

    return run


def test_upsampled_images_are_ddims_of_the_rows_and_their_labels(folder, enlarge):
    images, labels = enlarge("--use_ddim", "True", "--batch_size", "2")
    assert labels == [2, 0, 1, 2, 0]
    chain = {"steps": 20, "noise_schedule": "cosine", "learn_sigma": True}
    diffusion = script_util.create_gaussian_diffusion(**chain)
    model = script_util.create_model(
        8, 32, 1, "1", True, True, False, "4", 4, use_scale_shift_norm=True, num_classes=3,
        network=SuperResModel,
    )  # fmt: skip
    model.load_state_dict(checkpoint.load(str(folder / "sr_random/model000002.pt")))
    base = np.load(folder / "base.npz")["arr_0"][[0, 1, 2, 0, 1]]
    noise = ImageNoise(4, range(5), "cpu")
    expected = diffusion.ddim_sample_loop(
        model.eval(),
        (5, 3, 8, 8),
        noise=noise(torch.empty(5, 3, 8, 8)),
        model_kwargs={
            "low_res": torch.from_numpy(base).permute(0, 3, 1, 2) / 127.5 - 1,
            "y": torch.tensor(labels),
        },
    )
    expected = ((expected + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(images + 0.5 - expected).max() < 1
    assert np.abs(images - enlarge()[0]).mean() > 5  # ancestral
    assert np.abs(images - enlarge("--use_ddim", "True", "--class_labels", "1")[0]).mean() > 1


def test_base_samples_that_do_not_fit_are_named(tmp_path, folder, enlarge):
    np.savez(tmp_path / "large.npz", np.zeros((2, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "bare.npz", np.zeros((2, 4, 4, 3), np.uint8))
    for name, told in {"large": "small_size of the network is 4", "bare": "no labels"}.items():
        with pytest.raises(ValueError, match=told):
            enlarge("--base_samples", str(tmp_path / f"{name}.npz"))
    with pytest.raises(ValueError, match="give --base_samples"):
        enlarge("--base_samples", "")
