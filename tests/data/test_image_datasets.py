"""What a step's batch holds, on any number of ranks and however it is loaded."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small import images, save_images

from flatdiff.image_datasets import (
    Batches,
    ImageDataset,
    list_image_files,
    load_data,
    loader,
    to_float,
    to_uint8,
)
from flatdiff.world import logger


@pytest.fixture
def pixels():
    """Ten images in the order of their files, no two alike and none its own mirror image."""
    return images(10)


@pytest.fixture
def folder(tmp_path, pixels):
    return str(save_images(tmp_path, pixels, "{}_00000"))


def indices(images, pixels):
    """Which of `pixels` each of a batch's images is, mirrored or not."""
    both = [to_float(pixels), to_float(pixels[:, :, ::-1])]
    return [
        next(i for i in range(len(pixels)) if any(torch.equal(x, view[i]) for view in both))
        for x in images
    ]


# Batches


def test_a_batch_is_the_files_in_minus_one_to_one(folder, pixels):
    batches = Batches(ImageDataset(folder, 8, class_cond=True), 4, deterministic=True)
    images, cond = batches[2]  # positions 8 to 11 of 10 images
    expected = pixels[[8, 9, 0, 1]].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    assert images.dtype == torch.float32 and images.is_contiguous()
    assert np.array_equal(images, expected)
    assert cond["y"].dtype == torch.int64 and cond["y"].tolist() == [8, 9, 0, 1]
    assert Batches(ImageDataset(folder, 8), 4)[0][1] == {}


def test_every_epoch_is_another_permutation(folder, pixels):
    batches = Batches(ImageDataset(folder, 8), 5)
    images = torch.cat([batches[n][0] for n in range(6)])
    seen = np.array(indices(images, pixels)).reshape(3, 10)
    assert np.array_equal(np.sort(seen), [range(10)] * 3)
    assert len({tuple(epoch) for epoch in seen}) == 3
    other = Batches(ImageDataset(folder, 8), 10, seed=1)[0][0]
    assert indices(other, pixels) not in seen.tolist()


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("random_crop", [False, True])
def test_shards_share_one_global_batch(folder, random_crop, cache_bytes):
    """24 images a step from a set of 10, on one rank and on three; and at any batch size."""
    dataset = ImageDataset(folder, 8, class_cond=True, cache_bytes=cache_bytes)
    options = {"seed": 3, "random_crop": random_crop, "random_flip": True}
    whole, y = Batches(dataset, 24, **options)[7]
    shards = [Batches(dataset, 8, shard=k, num_shards=3, **options)[7] for k in range(3)]
    assert torch.equal(torch.cat([images for images, _ in shards]), whole)
    assert torch.equal(torch.cat([cond["y"] for _, cond in shards]), y["y"])
    halves = Batches(dataset, 12, **options)
    assert torch.equal(torch.cat([halves[14][0], halves[15][0]]), whole)


def test_half_of_the_images_are_mirrored_anew_in_each_epoch(folder):
    images, _ = Batches(ImageDataset(folder, 8), 1000, random_flip=True)[0]
    plain, _ = Batches(ImageDataset(folder, 8), 1000)[0]
    mirrored = torch.tensor([not torch.equal(a, b) for a, b in zip(images, plain)])
    assert torch.equal(images[mirrored], plain[mirrored].flip(3))
    assert abs(mirrored.sum() - 500) < 65
    assert len({tuple(epoch.tolist()) for epoch in mirrored.view(100, 10)}) > 90


def test_random_crops_are_drawn_anew_in_each_epoch(folder):
    """Also when the centre crops are in memory. An 8-pixel image has 1 + 4 + 9 crops of 8."""
    dataset = ImageDataset(folder, 8)
    assert len(dataset.squares()) == 10
    images, _ = Batches(dataset, 400, random_crop=True)[0]
    assert 100 < len(images.unique(dim=0)) <= 140


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"seed": -1}, {"shard": 2}])
def test_bad_batches_are_refused(folder, options):
    with pytest.raises(ValueError, match="expected|must be"):
        Batches(ImageDataset(folder, 8), **{"batch_size": 4, "num_shards": 2, **options})


# Loading ahead


@pytest.mark.parametrize("cache_bytes, num_workers", [(1 << 20, 0), (0, 0), (0, 2), (1 << 20, 2)])
def test_the_loader_is_the_batches_from_a_step_on(folder, cache_bytes, num_workers):
    batches = Batches(ImageDataset(folder, 8, True, cache_bytes=cache_bytes), 4, random_flip=True)
    data = loader(batches, start=5, num_workers=num_workers)
    for step, (batch, cond) in zip(range(5, 12), data):
        expected, expected_cond = batches[step]
        assert torch.equal(batch, expected) and torch.equal(cond["y"], expected_cond["y"])
    data.close()


@pytest.mark.slow
def test_the_loader_ends_with_the_program(folder):
    """Neither its thread nor its processes keep a program from ending, in use or dropped."""
    code = f"""
import torch
torch.multiprocessing.set_sharing_strategy("file_system")
from flatdiff.image_datasets import Batches, ImageDataset, loader
kept = []
for num_workers in (0, 2):
    batches = Batches(ImageDataset({folder!r}, 8, cache_bytes=0), 4)
    kept.append(loader(batches, num_workers=num_workers))
    print([next(kept[-1])[0].shape[0] for _ in range(9)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("4") == 18


def test_load_data_is_guided_diffusions_generator(folder):
    arguments = {"data_dir": folder, "batch_size": 3, "image_size": 8, "class_cond": True}
    data = load_data(**arguments, deterministic=True, random_flip=False, shard=1, num_shards=2)
    labels = [cond["y"].tolist() for _, (images, cond) in zip(range(3), data)]
    assert labels == [[3, 4, 5], [9, 0, 1], [5, 6, 7]]
    with pytest.raises(ValueError, match="unspecified data directory"):
        load_data(**{**arguments, "data_dir": ""})


@pytest.mark.parametrize("cache_bytes, num_workers", [(0, 0), (0, 1)])
def test_a_corrupt_image_is_named_where_the_batch_is_used(folder, cache_bytes, num_workers):
    path = list_image_files(folder)[4]
    with open(path, "r+b") as file:
        file.truncate(60)
    dataset = ImageDataset(folder, 8, cache_bytes=cache_bytes)
    with pytest.raises(ValueError, match="cannot read the image .*4_00000.png"):
        next(loader(Batches(dataset, 10), num_workers=num_workers))


def test_a_corrupt_image_is_named_while_all_are_decoded(folder):
    with open(list_image_files(folder)[4], "r+b") as file:
        file.truncate(60)
    with pytest.raises(ValueError, match="cannot read the image .*4_00000.png"):
        Batches(ImageDataset(folder, 8), 10)


# And back


def test_to_float_is_exact_and_to_uint8_truncates():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    x = to_float(every)
    assert np.array_equal(x[0].permute(1, 2, 0), every[0].astype(np.float32) / 127.5 - 1)
    lost = every.astype(int) - to_uint8(x).numpy()
    assert lost.min() >= 0 and lost.max() <= 1
    assert np.array_equal(to_uint8(x + 1e-4), every)
    values = torch.tensor([-7.0, -1, -0.9999, 0, 0.999, 1, 7]).view(1, 1, 1, 7).expand(1, 3, 1, 7)
    assert to_uint8(values)[0, 0, :, 0].tolist() == [0, 0, 0, 127, 254, 255, 255]
    x = torch.full((1, 3, 2, 4), 0.7, dtype=torch.bfloat16)  # 0.69921875
    assert to_uint8(x).unique().tolist() == [216]  # 216.65, which bf16 rounds to 217


# What is said


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_kind_is_logged_once_by_all_processes(tmp_path, num_workers):
    for i, name in itertools.product(range(6), ("rgba", "deep")):
        array = (
            np.full((8, 8, 4), i, np.uint8)
            if name == "rgba"
            else np.full((8, 8), 1000 + i, np.uint16)
        )
        Image.fromarray(array).save(tmp_path / f"{name}{i}.png")
    with logger.scoped_configure(dir=str(tmp_path / "log"), format_strs=["log"]):
        data = loader(Batches(ImageDataset(str(tmp_path), 8, cache_bytes=0), 4), 0, num_workers)
        for _ in range(6):
            next(data)
        data.close()
    text = (tmp_path / "log" / "log.txt").read_text()
    assert text.count("laid on white") == text.count("value / 257") == 1


def test_an_error_in_a_process_is_the_sentence_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    batches = Batches(ImageDataset(str(tmp_path), 8, cache_bytes=0), 4)
    with pytest.raises(ValueError, match=r"a.png is empty or of no known image format: remove it$"):
        next(loader(batches, num_workers=2))


def test_a_line_is_not_made_a_plane(tmp_path):
    Image.new("RGB", (65500, 1)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png is 65500x1 pixels: too long"):
        ImageDataset(str(tmp_path), 256).image(0)
