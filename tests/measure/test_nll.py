"""Bits per dimension against calc_bpd_loop, each image once, of the right classes."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small import CONDITIONAL as FLAGS
from small import TRAIN, coloured, data, random_weights

from flatdiff import script_util
from flatdiff.models.generate import ImageNoise
from flatdiff.rng import BOUND, generator
from flatdiff.store import checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return coloured(tmp_path_factory.mktemp("scripts"))


@pytest.fixture(scope="module")
def network(folder, call):
    """An unconditional network on the same images."""
    flags = [*data(folder), *FLAGS, *TRAIN, "--class_cond", "False"]
    call("image_train", *flags, "--end_step", 1, "--log_dir", folder / "network")
    return random_weights(folder / "network/model000001.pt")


def test_bits_per_dimension_are_calc_bpd_loops(folder, call, network, tmp_path):
    def measure(*flags):
        out = tmp_path / "_".join(map(str, flags))
        fixed = ["--model_path", network, *data(folder), "--seed", 5, "--log_dir", out]
        call("image_nll", *fixed, "--num_samples", 7, *flags)
        files = ("vb_terms", "mse_terms", "xstart_mse_terms")
        found = re.search(r"dimension: (\S+) \+- (\S+) .*over 7 images", log_of(out)).groups()
        return [np.load(out / f"{name}.npz")["arr_0"] for name in files], list(map(float, found))

    paths = sorted((folder / "images").iterdir())
    order = torch.randperm(24, generator=generator(5, BOUND))[:7]
    images = np.stack([np.asarray(Image.open(paths[i])) for i in order])
    model = script_util.create_model(
        8, 32, 1, "1", True, False, False, "4", 4, use_scale_shift_norm=True
    )
    model.load_state_dict(checkpoint.load(str(network)))
    chain = {"steps": 20, "noise_schedule": "cosine", "learn_sigma": True}
    expected = script_util.create_gaussian_diffusion(**chain).calc_bpd_loop(
        model.eval(),
        torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1,
        randn=ImageNoise(5, range(7), "cpu"),
    )
    terms, (bits, error) = measure("--batch_size", 3)
    total = expected["total_bpd"].numpy()
    assert bits == pytest.approx(total.mean(), rel=1e-4)
    assert error == pytest.approx(total.std(ddof=1) / 7**0.5, rel=1e-2)
    for found, name in zip(terms, ("vb", "mse", "xstart_mse")):
        assert found.shape == (20,) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected[name].mean(0), rtol=1e-3, atol=1e-5)
    half, _ = measure("--use_fp16", "True", "--batch_size", 7)
    for a, b in zip(terms, half):
        assert not np.array_equal(a, b)
        np.testing.assert_allclose(a, b, rtol=0.02)


def test_bits_per_dimension_count_no_image_twice(folder, call, network, tmp_path):
    fixed = ["--model_path", network, *data(folder), "--batch_size", 50, "--num_samples"]
    for name, count in (("once", 24), ("more", 500)):
        call("image_nll", *fixed, count, "--log_dir", tmp_path / name)
    once, more = (re.search("bits per .*", log_of(tmp_path / n))[0] for n in ("once", "more"))
    assert once == more and "over 24 images" in more
    assert "there are 24 images, and num_samples is 500" in log_of(tmp_path / "more")
    call("image_nll", *fixed, 1, "--log_dir", tmp_path / "one")
    assert "of one image" in log_of(tmp_path / "one")
    with pytest.raises(ValueError, match="--num_samples was 1 and is 2"):  # and leaves it there
        call("image_nll", *fixed, 2, "--log_dir", tmp_path / "one")
    record = checkpoint.load_json(str(tmp_path / "one" / "nll.json"))
    assert record["models"][0]["sha256"] == checkpoint.sha256(str(network))
    assert f"{record['bits_per_dimension']:.5f}" in log_of(tmp_path / "one")


def test_bits_of_a_folder_without_a_class_are_of_the_right_classes(folder, call, tmp_path):
    """Images of b and c alone, and those of a network that was trained on a, b and c."""
    flags = [*data(folder), *FLAGS, *TRAIN]
    call("image_train", *flags, "--end_step", 1, "--log_dir", tmp_path / "run")
    path = random_weights(tmp_path / "run/model000001.pt")
    (tmp_path / "images").mkdir()
    for file in (folder / "images").glob("[bc]_*"):
        shutil.copy(file, tmp_path / "images")
    paths = sorted((tmp_path / "images").iterdir())
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.savez(tmp_path / "own.npz", images, ["abc".index(path.name[0]) for path in paths])
    shown = []
    for name in ("images", "own.npz"):
        out = tmp_path / f"nll_{name}"
        fixed = ["--model_path", path, "--data_dir", tmp_path / name, "--batch_size", 16]
        call("image_nll", *fixed, "--num_samples", 16, "--log_dir", out)
        shown.append(re.search("bits per .*", log_of(out))[0])
    assert shown[0] == shown[1]
    Image.open(paths[0]).save(tmp_path / "images/d_0.png")
    with pytest.raises(ValueError, match="not trained on the classes d: it has a, b, c"):
        call("image_nll", *fixed[:2], "--data_dir", tmp_path / "images", "--log_dir", tmp_path)


def log_of(out):
    return (out / "log.txt").read_text()
