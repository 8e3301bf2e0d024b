"""What prepared folders, npz and zip have in common: whole, gone on with, and as training reads."""

import importlib
import zipfile
from pathlib import Path

import numpy as np
import preparation
import pytest
from launch import ROOT
from PIL import Image
from preparation import pixels, png, read, run, same, save_pngs, script
from small import RNG

from flatdiff.data.image_datasets import ImageDataset
from flatdiff.data.image_files import center_crop_arr

common = script("common")


@pytest.fixture
def photos(tmp_path):
    return preparation.photos(tmp_path / "photos")


# The folder


def test_home_is_meant_where_shells_leave_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.syspath_prepend(str(ROOT / "evaluations"))
    evaluator = importlib.import_module("evaluator").create_argparser()
    args = evaluator.parse_args(["~/a.npz", "--json=~/b.json", "--cache_dir", ""])
    assert (args.reference, args.json, args.cache_dir) == ("/home/me/a.npz", "/home/me/b.json", "")
    own = script("common").argparser("", out="FILE.npz")
    assert own.parse_args(["--out=~/c.npz"]).out == "/home/me/c.npz"


def test_a_killed_run_goes_on_and_a_finished_folder_is_reused(tmp_path, capsys):
    images, made = {f"{i:03d}": pixels(4, 4, 3) for i in range(300)}, []

    def pairs(stop):
        for name in list(images)[:stop]:
            yield name, lambda name=name: made.append(name) or images[name]
        if stop < 300:
            raise KeyboardInterrupt

    out, record = tmp_path / "out", {"size": 4}
    with pytest.raises(KeyboardInterrupt):
        common.write_folder(str(out), pairs(280), 300, record)
    assert not out.exists() and len(made) == 256
    Path(f"{out}.partial/299.png.part").write_bytes(b"half an image")
    common.write_folder(str(out), pairs(300), 300, record)
    assert sorted(made) == sorted(images)  # each was made once
    same(read(out), images)
    common.write_folder(str(out), pairs(300), 300, record)
    assert len(made) == 300
    assert f"300 images reused: {out}" in capsys.readouterr().out


def test_leftovers_of_another_set_are_not_mixed_in(tmp_path):
    out = f"{tmp_path}/out"
    one, other = {"a": pixels(2, 2, 3)}, {"b": pixels(2, 2, 3)}
    with pytest.raises(SystemExit, match="1 images came instead of 2"):
        common.write_folder(out, [("a", lambda: one["a"])], 2, {"set": 1})
    common.write_folder(out, [("b", lambda: other["b"])], 1, {"set": 2})
    same(read(out), other)
    with pytest.raises(SystemExit, match="was made otherwise.*remove it"):
        common.write_folder(out, [], 1, {"set": 1})
    with pytest.raises(SystemExit, match="something else"):
        common.write_folder(save_pngs(tmp_path / "mine", one), [], 1, {"set": 1})


# npz and zip


@pytest.mark.parametrize("num_images", [0, 2])
def test_the_reference_is_what_training_sees(tmp_path, photos, num_images):
    folder, images = photos
    flags = dict(data_dir=folder, image_size=8, class_cond=True, num_images=num_images, seed=3)
    run("to_npz", **flags, out=f"{tmp_path}/ref.npz")
    run("to_npz", **flags, out=f"{tmp_path}/again.npz")
    squares = [center_crop_arr(Image.fromarray(images[name]), 8) for name in sorted(images)]
    with np.load(tmp_path / "ref.npz") as archive, np.load(tmp_path / "again.npz") as again:
        found, labels = archive["arr_0"], archive["arr_1"]
        assert np.array_equal(found, again["arr_0"])
    rows = [next(i for i, s in enumerate(squares) if np.array_equal(s, row)) for row in found]
    assert rows == sorted(set(rows)) and len(rows) == (num_images or 3)
    assert found.dtype == np.uint8 and labels.dtype == np.int64
    assert labels.tolist() == [[0, 0, 1][row] for row in rows]


def test_subsets_depend_on_the_seed():
    subset = script("to_npz").subset
    drawn = [tuple(subset(1000, 10, seed)) for seed in range(3)]
    assert len(set(drawn)) == 3
    means = [subset(1000, 100, seed).mean() for seed in range(50)]
    assert abs(np.mean(means) - 499.5) < 20
    with pytest.raises(ValueError, match="expected 0"):
        subset(3, 4, 0)


@pytest.mark.parametrize("labels", [np.zeros((3, 1), int), np.zeros(2, int), np.zeros(4, int)])
def test_each_image_of_an_npz_has_one_label(tmp_path, labels):
    np.savez(tmp_path / "s.npz", pixels(3, 5, 5, 3), labels)
    with pytest.raises(SystemExit, match=r"expected integers \(3,\), the labels of its images"):
        run("to_images", npz=f"{tmp_path}/s.npz", out_dir=f"{tmp_path}/s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_becomes_files_and_files_an_npz(tmp_path, save):
    images, labels = pixels(12, 5, 5, 3), RNG.integers(0, 12, 12)
    labels[0] = 11  # two digits: names sort as numbers do
    save(tmp_path / "s.npz", images, labels)
    run("to_images", npz=f"{tmp_path}/s.npz", out_dir=f"{tmp_path}/s")
    same(read(tmp_path / "s"), {f"{y:02d}_{i:05d}": images[i] for i, y in enumerate(labels)})
    dataset = ImageDataset(f"{tmp_path}/s", 5, class_cond=True)
    assert np.array_equal(dataset.labels, np.unique(np.sort(labels), return_inverse=True)[1])
    save(tmp_path / "u.npz", images)
    run("to_images", npz=f"{tmp_path}/u.npz", out_dir=f"{tmp_path}/u")
    run("to_npz", data_dir=f"{tmp_path}/u", image_size=5, out=f"{tmp_path}/v.npz")
    with np.load(tmp_path / "v.npz") as archive:
        assert archive.files == ["arr_0"] and np.array_equal(archive["arr_0"], images)


@pytest.mark.parametrize("size", [{}, {"image_size": 8}])
def test_a_zip_trains_as_its_folder_does(tmp_path, photos, size):
    folder, images = photos
    run("to_zip", data_dir=folder, out=f"{tmp_path}/x.zip", **size)
    packed, loose = (
        ImageDataset(path, 8, class_cond=True) for path in (f"{tmp_path}/x.zip", folder)
    )
    assert np.array_equal(packed.squares(), loose.squares())
    assert packed.classes == ["cat", "dog"] and np.array_equal(packed.labels, loose.labels)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        if not size:
            assert archive.read("a/cat_0.png") == png(images["a/cat_0"])
