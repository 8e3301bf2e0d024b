"""Preparation of data sets: every script, on a small source made here."""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import lmdb
import numpy as np
import preparation
import pytest
import skimage.data
from PIL import Image
from preparation import pixels, png, read, run, same, script
from small import RNG

from flatdiff.data.image_files import center_crop_arr


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """(script, archive, images, labels): 3 images a batch."""
    images, labels = pixels(18, 32, 32, 3), RNG.integers(0, 10, 18)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        for i, name in enumerate(names):
            rows = slice(3 * i, 3 * i + 3)
            data = images[rows].transpose(0, 3, 1, 2).reshape(3, 3072)
            add(tar, f"cifar-10-batches-py/{name}", pickle.dumps(
                {b"data": data, b"labels": labels[rows].tolist()}
            ))  # fmt: skip
    module = script("cifar10")
    md5 = subprocess.run(["md5sum", tmp_path / "c.tar.gz"], capture_output=True, text=True).stdout
    monkeypatch.setattr(module, "MD5", md5.split()[0])
    return module, str(tmp_path / "c.tar.gz"), images, labels


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_cifar10(tmp_path, cifar):
    module, archive, images, labels = cifar
    module.main(["--archive", archive, "--out_dir", f"{tmp_path}/c"])
    words = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    names = [f"{words[y]}_{i if i < 15 else i - 15:05d}" for i, y in enumerate(labels)]
    same(read(tmp_path / "c/cifar_train"), dict(zip(names[:15], images)))
    same(read(tmp_path / "c/cifar_test"), dict(zip(names[15:], images[15:])))


def test_cifar10_says_where_the_archive_is_to_be_had(tmp_path, cifar, monkeypatch):
    module, archive, _, _ = cifar
    out = ["--out_dir", f"{tmp_path}/c"]
    with pytest.raises(SystemExit, match="give --archive FILE"):
        module.main(["--archive", f"{tmp_path}/none.tar.gz", *out])
    with open(archive, "ab") as file:
        file.write(b"more")
    with pytest.raises(SystemExit, match="md5"):
        module.main(["--archive", archive, *out])
    monkeypatch.setattr(module, "URL", f"file://{tmp_path}/none/cifar-10-python.tar.gz")
    with pytest.raises(SystemExit, match="cannot download.*--archive FILE"):
        module.main(out)
    os.makedirs(tmp_path / "none")
    Path(archive).rename(tmp_path / "none/cifar-10-python.tar.gz")
    with pytest.raises(SystemExit, match="md5"):  # it was downloaded, and is checked too
        module.main(out)


def test_noto_emoji(tmp_path, capsys):
    picture = np.zeros((64, 64, 4), dtype=np.uint8)
    picture[:32] = (200, 0, 100, 255)
    picture[32:, :, :3] = 50  # transparent: white, whatever its colour
    table = [
        {"image": "1f600.png", "category": "Smileys & Emotion"},
        {"image": "26bd.png", "category": "Activities"},
    ]
    with tarfile.open(tmp_path / "e.tgz", "w:gz") as tar:
        for folder in ("img/google/64/1f600.png", "img/google/64/26bd.png", "img/google/32/a.png"):
            add(tar, f"package/{folder}", png(picture))
        add(tar, "package/emoji.json", json.dumps(table).encode())
    run("noto_emoji", archive=f"{tmp_path}/e.tgz", out_dir=f"{tmp_path}/e")
    white = np.full((32, 32, 3), 255, dtype=np.uint8)
    white[:16] = (200, 0, 100)
    same(read(tmp_path / "e"), {"smileys-emotion_1f600": white, "activities_26bd": white})
    assert "Apache License 2.0" in capsys.readouterr().out
    with tarfile.open(tmp_path / "broken.tgz", "w:gz") as tar:
        add(tar, "package/emoji.json", json.dumps(table).encode())
    with pytest.raises(SystemExit, match="fetch it again"):
        run("noto_emoji", archive=f"{tmp_path}/broken.tgz", out_dir=f"{tmp_path}/f")


def test_noto_emoji_without_npm_or_with_one_that_fails(tmp_path, monkeypatch):
    flags = dict(out_dir=f"{tmp_path}/e", cache_dir=f"{tmp_path}/cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="npm is not installed.*--archive"):
        run("noto_emoji", **flags)
    (tmp_path / "npm").write_text("#!/bin/sh\necho no network >&2; exit 1\n")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(SystemExit, match="npm pack emoji.* failed: no network"):
        run("noto_emoji", **flags)


def test_photo_patches(tmp_path):
    found = {}
    for split in ("train", "test"):
        run("photo_patches", out_dir=f"{tmp_path}/{split}", image_size=64, split=split)
        found[split] = read(tmp_path / split)
    assert not found["train"].keys() & found["test"].keys()
    crops = found["train"] | found["test"]
    cat = skimage.data.chelsea()  # 300 x 451: 4 rows of 7 crops
    assert sum(name.startswith("cat_") for name in crops) == 28
    assert np.array_equal(crops["cat_00009"], cat[64:128, 128:192])
    assert [n for n in sorted(found["test"]) if n.startswith("cat_")] == [
        f"cat_{i:05d}" for i in range(4, 28, 5)
    ]
    assert len({name.split("_")[0] for name in crops}) == 9


def test_a_folder_of_any_size(tmp_path):
    folder, images = preparation.photos(tmp_path / "photos")
    run("ffhq64", data_dir=folder, image_size=8, out_dir=f"{tmp_path}/8")
    expected = {k: center_crop_arr(Image.fromarray(v), 8) for k, v in images.items()}
    same(read(tmp_path / "8"), expected)
    Image.fromarray(pixels(9, 9, 3)).save(f"{folder}/a/cat_0.jpg")
    with pytest.raises(SystemExit, match=r"several images a/cat_0\.\*"):
        run("ffhq64", data_dir=folder, image_size=8, out_dir=f"{tmp_path}/9")


def test_lsun(tmp_path):
    images = [pixels(32, 64, 3), pixels(48, 16, 3)]
    environment = lmdb.open(f"{tmp_path}/lmdb", map_size=1 << 20)
    with environment, environment.begin(write=True) as transaction:
        for key, image in zip((b"b", b"a"), images):
            transaction.put(key, png(image))
    run("lsun_tower", lmdb=f"{tmp_path}/lmdb", out_dir=f"{tmp_path}/t", image_size=16)
    wide = images[0].reshape(16, 2, 32, 2, 3).mean((1, 3))  # a BOX resize to half is the mean
    found = read(tmp_path / "t")
    assert sorted(found) == ["tower_0000000", "tower_0000001"]
    assert np.array_equal(found["tower_0000000"], images[1][16:32])
    assert np.abs(found["tower_0000001"] - wide[:, 8:24]).max() <= 1  # rounded twice
    with pytest.raises(SystemExit, match="as an lmdb"):
        run("lsun_tower", lmdb=str(tmp_path / "t"), out_dir=f"{tmp_path}/u")


def test_lsun_without_lmdb_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(SystemExit, match=r"pip install 'flatdiff\[lsun\]'"):
        run("lsun_tower", lmdb=str(tmp_path), out_dir=f"{tmp_path}/u")


def test_imagenet(tmp_path):
    images, labels = pixels(20, 4, 4, 3), RNG.integers(1, 1001, 20)
    for i in range(10):
        rows = slice(2 * i, 2 * i + 2)
        np.savez(
            tmp_path / f"train_data_batch_{i + 1}.npz",
            data=images[rows].transpose(0, 3, 1, 2).reshape(2, 48),
            labels=labels[rows].tolist(),
        )
    run("imagenet64", data_dir=tmp_path, out_dir=f"{tmp_path}/i")
    names = [f"{y - 1:04d}_{i:07d}" for i, y in enumerate(labels)]
    same(read(tmp_path / "i"), dict(zip(names, images)))
    run("imagenet64", data_dir=tmp_path, out_dir=f"{tmp_path}/i.npz")
    with np.load(tmp_path / "i.npz") as archive:
        assert np.array_equal(archive["arr_0"], images)
        assert np.array_equal(archive["arr_1"], labels - 1)
    with pytest.raises(SystemExit, match=r"val_data.npz: download"):
        run("imagenet64", data_dir=tmp_path, split="val", out_dir=f"{tmp_path}/v")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("to_npz", dict(data_dir="none", out="x.npz")),
        ("to_images", dict(npz="none.npz", out_dir="x")),
        ("to_zip", dict(data_dir="none", out="x.zip")),
        ("noto_emoji", dict(archive="none.tgz", out_dir="x")),
        ("ffhq64", dict(data_dir="none", out_dir="x")),
        ("lsun_tower", dict(lmdb="none", out_dir="x")),
        ("imagenet64", dict(data_dir="none", out_dir="x")),
    ],
)
def test_a_missing_source_is_named(tmp_path, monkeypatch, name, flags):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="none"):
        run(name, **flags)
    assert not list(tmp_path.iterdir())
