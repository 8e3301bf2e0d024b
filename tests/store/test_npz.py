"""npz files by rows, against numpy's own reading and writing of them."""

import os
import zipfile

import numpy as np
import pytest

from flatdiff.judge.arrays import rows as rows_of
from flatdiff.store import npz


def test_an_npz_by_rows_is_one_that_numpy_reads(tmp_path):
    path, names = str(tmp_path / "a.npz"), np.array(["cat", "dog"])
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    arrays = {
        "arr_0": (images.shape, np.uint8, (image for image in images)),
        "arr_1": ((2,), np.int64, [0, 1]),
        "class_names": (names.shape, names.dtype, names),
    }
    npz.write(path, arrays, record="who made it \u00e9", empty="")
    with np.load(path) as file:
        assert np.array_equal(file["arr_0"], images) and file["arr_0"].dtype == np.uint8
        assert file["arr_1"].tolist() == [0, 1] and file["class_names"].tolist() == ["cat", "dog"]
        assert str(file["record"]) == "who made it \u00e9" and str(file["empty"]) == ""
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0] == "arr_0.npy"
    with pytest.raises(TypeError):  # the second row cannot be made
        npz.write(path, {"arr_0": ((2,), np.uint8, map(len, ["a", 1]))})
    assert os.listdir(tmp_path) == ["a.npz"]
    shape, rows = rows_of(path, "arr_0")
    assert shape == images.shape and np.array_equal(list(rows), images)
