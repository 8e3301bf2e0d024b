"""Images are a function of (seed, index): batches, killed runs and labels change nothing."""

import json
import math
import os
import types
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from launch import mpirun, succeed

from flatdiff.flags import config
from flatdiff.models import generate
from flatdiff.models.generate import ImageNoise, draw_labels, sample_images
from flatdiff.world import logger

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def chain():
    model, diffusion = small.network(diffusion_steps=100, timestep_respacing="12")
    return model.eval(), diffusion


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp"])
def test_an_image_does_not_depend_on_its_batch(chain, sampler):
    def images(indices):
        return sample_images(*chain, indices, (3, 8, 8), seed=5, sampler=sampler)

    together = images(range(6)).astype(int)
    apart = np.concatenate([images([0]), images([1, 2, 3]), images([5, 4])[::-1]]).astype(int)
    assert together.shape == (6, 8, 8, 3)
    assert np.abs(together - apart).max() <= 1  # rounding may cross a uint8 level
    assert (together == apart).mean() > 0.99
    assert np.abs(together[0] - together[1]).mean() > 5
    assert np.abs(together[0] - images([6])[0]).mean() > 5


def test_what_has_a_flag_of_its_own_is_no_knob(chain):
    """The flag would win, and the knob say nothing."""
    with pytest.raises(ValueError, match="no knob 'clip_denoised'; it has eta"):
        sample_images(*chain, [0], (3, 8, 8), sampler="ddim clip_denoised=False")


@pytest.mark.parametrize(
    ("argv", "sampler"),
    [
        ("", "ddpm"),
        ("--use_ddim True", "ddim"),
        ("--use_ddim False --sampler dpmpp", "dpmpp"),
        ("--use_ddim True --sampler ddim~eta=0.5", "ddim eta=0.5"),
        ("--use_ddim True --sampler dpmpp", None),
        ("--use_ddim True --sampler ddpm", None),
    ],
)
def test_use_ddim_is_the_sampler_ddim_and_no_other(argv, sampler):
    words = [word.replace("~", " ") for word in argv.split()]
    flags = config.parse("", words, sample=config.SampleFlags)
    if sampler:
        assert generate.sampler_of(flags) == sampler
    else:
        with pytest.raises(ValueError, match="contradicts --sampler"):
            generate.sampler_of(flags)


def test_noise_is_standard_normal_and_fresh_at_each_step():
    noise = ImageNoise(0, range(50), "cpu")
    x = torch.empty(50, 3, 8, 8)
    steps = torch.stack([noise(x) for _ in range(20)])
    assert abs(steps.mean()) < 0.01 and abs(steps.std() - 1) < 0.01
    flat = steps.transpose(0, 1).reshape(1000, -1)
    correlation = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0)
    assert correlation.abs().max() < 0.5


def test_labels():
    labels = draw_labels(range(2000), 0, range(10))
    assert torch.bincount(labels, minlength=10).min() > 140
    assert torch.equal(labels[100:110], draw_labels(range(100, 110), 0, range(10)))


def flags_of(class_labels):
    sample, run = config.SampleFlags(class_labels=class_labels), config.RunFlags()
    return types.SimpleNamespace(sample=sample, run=run)


def test_labels_that_are_asked_for_come_in_turn():
    assert generate.labels_of(flags_of("3,7"), 10)(range(5)).tolist() == [3, 7, 3, 7, 3]
    with pytest.raises(ValueError, match=r"class_labels \[10\] are not in 0..9"):
        generate.labels_of(flags_of("10"), 10)


def test_labels_are_those_that_occurred_in_training(tmp_path):
    """All rows where names are not known, as guided-diffusion draws them."""
    logger.configure(str(tmp_path), ["log"])
    draw = generate.labels_of(flags_of(""), 1000, ("cat", None, "dog"))
    assert set(draw(range(100)).tolist()) == {0, 2}
    assert len(set(generate.labels_of(flags_of(""), 1000)(range(100)).tolist())) > 80
    assert generate.labels_of(flags_of("1,2"), 3, ("cat", None, "dog"))([0]).tolist() == [1]
    said = (tmp_path / "log.txt").read_text()
    assert "0 cat, 2 dog" in said and "no image of class_labels [1] was" in said


def fake(indices):
    """Image i is filled with i."""
    images = np.stack([np.full((4, 4, 3), i, np.uint8) for i in indices])
    return images, torch.tensor([i % 3 for i in indices])


def test_sampling_may_use_tf32_and_leaves_no_setting_behind(monkeypatch):
    def now(*_, **__):
        tf32 = torch.backends.cuda.matmul.allow_tf32
        seen.append((tf32, torch.are_deterministic_algorithms_enabled()))

    seen, flags = [], flags_of("")
    flags.run, flags.given = config.RunFlags(deterministic=True), {}
    flags.model, model = config.ModelFlags(), types.SimpleNamespace(num_classes=None, image_size=8)
    model.classes = ()
    monkeypatch.setattr(generate, "sample_images", now)
    generate.sampler(model, None, flags)([0])
    now()
    assert seen == [(True, True), (False, False)]


@pytest.mark.parametrize(
    ("device", "given", "size", "chosen"),
    [
        ("cpu", {}, 32, 16),
        ("cuda", {}, 32, 256),
        ("cuda", {}, 64, 64),  # as many pixels
        ("cuda", {}, 256, 16),
        ("cuda", {"batch_size": 16}, 32, 16),
    ],
)
def test_a_gpu_gets_large_batches_unless_a_size_was_given(monkeypatch, device, given, size, chosen):
    monkeypatch.setattr(generate.dist_util, "dev", lambda: torch.device(device))
    flags = types.SimpleNamespace(sample=config.SampleFlags(), given=given)
    assert generate.batch_size_of(flags, size) == chosen


def files_of(name):
    return [f"{name}.{end}" for end in ("json", "npz", "png")]


def test_npz_has_exactly_the_images_in_order(tmp_path):
    path = generate.generate(fake, 23, 5, str(tmp_path), key="a")
    assert os.path.basename(path) == "samples_23x4x4x3.npz"
    with np.load(path) as file:
        assert file["arr_0"].dtype == np.uint8 and file["arr_1"].dtype == np.int64
        assert (file["arr_0"] == np.arange(23)[:, None, None, None]).all()
        assert (file["arr_1"] == np.arange(23) % 3).all()
    assert sorted(os.listdir(tmp_path)) == ["run", *files_of("samples_23x4x4x3")]


def test_a_killed_run_goes_on_with_the_parts_of_its_own_key(tmp_path):
    made = []

    def dies(indices):
        if len(made) >= 10:
            raise KeyboardInterrupt
        made.extend(indices)
        return fake(indices)

    with pytest.raises(KeyboardInterrupt):
        generate.generate(dies, 20, 5, str(tmp_path), key="a")
    again = []

    def counts(indices):
        again.extend(indices)
        return fake(indices)

    path = generate.generate(counts, 20, 4, str(tmp_path), key="a")
    assert made == list(range(10)) and again == list(range(10, 20))
    with np.load(path) as file:
        assert (file["arr_0"][:, 0, 0, 0] == np.arange(20)).all()
    generate.generate(counts, 20, 4, str(tmp_path), key="a")  # the same images once more
    again.clear()
    with pytest.raises(KeyboardInterrupt):
        generate.generate(interrupted(counts, 8), 20, 4, str(tmp_path / "other"), key="a")
    generate.generate(counts, 20, 4, str(tmp_path / "other"), key="b")
    assert again == [*range(8), *range(20)]


RANKS = """
import sys
import numpy as np
from flatdiff.models import generate
from flatdiff.world import dist_util, logger

def sample(indices):
    return np.stack([np.full((4, 4, 3), i, np.uint8) for i in indices]), np.array(indices) % 3

with dist_util.session():
    logger.configure(sys.argv[1], ["stdout"])
    generate.generate(sample, 40, 1, sys.argv[1], key="a")
"""


def test_ranks_go_on_over_damaged_parts(tmp_path):
    """One of them removes the parts, and says of each that it did."""
    with pytest.raises(KeyboardInterrupt):
        generate.generate(interrupted(fake, 30), 40, 1, str(tmp_path), key="a")
    parts = sorted(tmp_path.glob("samples_parts_*/*.npz"))
    for part in parts[10:]:
        part.write_bytes(part.read_bytes()[:100])
    done = succeed(mpirun(2, "-c", RANKS, tmp_path))
    assert (done.stdout + done.stderr).count("are drawn anew") == len(parts) - 10 == 20
    with np.load(tmp_path / "samples_40x4x4x3.npz") as file:
        assert (file["arr_0"][:, 0, 0, 0] == np.arange(40)).all()


def interrupted(sample, after):
    left = [after]

    def dies(indices):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= len(indices)
        return sample(indices)

    return dies


def test_samples_of_other_settings_are_not_replaced(tmp_path):
    def key(**flags):
        return json.dumps({"flags": {"sample": flags}, "files": ["sha256"]}, sort_keys=True)

    path = generate.generate(fake, 4, 4, str(tmp_path), key=key(sampler="ddpm", clip=True))
    before = Path(path).read_bytes()
    with pytest.raises(ValueError, match=r"drawn with --sampler 'ddpm', now 'ddim'\. Give another"):
        generate.generate(fake, 4, 4, str(tmp_path), key=key(sampler="ddim", clip=True))
    assert Path(path).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["run", *files_of("samples_4x4x4x3")]
    for other in ({"num_samples": 5}, {"suffix": "_w8"}):  # which have names of their own
        arguments = {"num_samples": 4, "batch_size": 4, "folder": str(tmp_path)} | other
        generate.generate(fake, **arguments, key=key(sampler="ddim"))
    np.savez(tmp_path / "samples_6x4x4x3.npz", np.zeros((6, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="it does not say how it was drawn"):
        generate.generate(fake, 6, 4, str(tmp_path), key="a")


def test_a_long_key_is_told_apart_too(tmp_path):
    labels = ",".join(map(str, range(14_000)))
    generate.generate(fake, 2, 2, str(tmp_path), key=labels)
    generate.generate(fake, 2, 2, str(tmp_path), key=labels)
    with pytest.raises(ValueError, match="would be replaced"):
        generate.generate(fake, 2, 2, str(tmp_path), key=labels + ",1")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_pixels_that_are_no_numbers_are_counted(chain, bad):
    model, diffusion = chain

    def broken(x, t, **kwargs):
        out = model(x, t, **kwargs)
        return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) == 1, bad, out)

    with pytest.raises(ValueError, match="pixels of images 3 to 5: 192 of 576 numbers are not f"):
        sample_images(broken, diffusion, [3, 4, 5], (3, 8, 8), clip_denoised=False)


def test_class_labels_are_read():
    with pytest.raises(ValueError, match="separated by commas"):
        generate.labels_of(flags_of("1;2"), 10)
