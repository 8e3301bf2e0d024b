"""The digits that scikit-learn ships, as files that training reads."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from preparation import script

from flatdiff.data.image_datasets import ImageDataset

digits = script("digits")


@pytest.fixture(scope="module")
def truth():
    return sklearn.datasets.load_digits()


def numbers(dataset):
    """The index in each file's name."""
    return [int(name.removesuffix(".png").split("_")[1]) for name in dataset.source.names]


def test_every_digit_is_there_with_its_class(tmp_path, truth, capsys):
    digits.main(["--out_dir", f"{tmp_path}/all"])
    dataset = ImageDataset(f"{tmp_path}/all", 8, class_cond=True)
    order = numbers(dataset)
    assert sorted(order) == list(range(1797))
    assert dataset.classes == list("0123456789")
    assert np.array_equal(dataset.labels, truth.target[order])
    squares = dataset.squares(progress=False)
    assert np.abs(squares - truth.images[order][..., None] * 255 / 16).max() <= 0.5
    assert squares.min() == 0 and squares.max() == 255
    said = capsys.readouterr().out
    assert f"{tmp_path}/all" in said and "1797 digits (178 182 177 183" in said


def test_the_splits_share_out_every_class(tmp_path, truth):
    found = {}
    for split in ("train", "test"):
        digits.main(["--out_dir", f"{tmp_path}/{split}", "--split", split])
        found[split] = numbers(ImageDataset(f"{tmp_path}/{split}", 8))
    assert sorted(found["train"] + found["test"]) == list(range(1797))
    share = np.bincount(truth.target[found["test"]]) / np.bincount(truth.target)
    assert np.abs(share - 0.2).max() < 0.01


def test_a_complete_folder_is_reused_and_another_refused(tmp_path, capsys):
    out_dir = f"{tmp_path}/16"
    arguments = ["--out_dir", out_dir, "--image_size", "16", "--split", "test"]
    os.makedirs(f"{out_dir}.partial/left/by/a/killed/run")
    digits.main(arguments)
    written = {path: path.stat().st_mtime_ns for path in Path(out_dir).iterdir()}
    assert ImageDataset(out_dir, 16).source.open(0).size == (16, 16)
    Path(out_dir, "ready").touch()  # files that are no images do not matter
    digits.main(arguments)
    assert "reused" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    for other in (["--image_size", "8", "--split", "test"], ["--image_size", "16"]):
        with pytest.raises(SystemExit, match="remove it"):
            digits.main(["--out_dir", out_dir, *other])
    next(iter(written)).unlink()
    with pytest.raises(SystemExit, match="holds something else"):
        digits.main(arguments)


def test_without_scikit_learn_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit, match="pip install scikit-learn"):
        digits.main(["--out_dir", f"{tmp_path}/all"])
