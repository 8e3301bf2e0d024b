"""Arrays of an npz against numpy's own, and files that claim what they have not."""

import io
import zipfile

import numpy as np
import pytest

from flatdiff.judge import arrays

HUGE = 10**12


def save(path, **members):
    """An npz of raw members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return str(path)


def header(descr, shape):
    file = io.BytesIO()
    told = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, told)
    return file.getvalue()


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_numpy_reads(tmp_path, write):
    draw = np.random.default_rng(0)
    given = {
        "images": draw.integers(0, 256, (5, 3, 4, 3), dtype=np.uint8),
        "by_columns": np.asfortranarray(draw.normal(size=(4, 6))),
        "names": np.array(["cat", "dog", ""]),
        "nothing": np.empty((0, 3)),
        "number": np.array(2.5),
    }
    write(tmp_path / "a.npz", **given)
    found = arrays.read(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as expected:
        assert found.keys() == set(expected)
        for name, array in found.items():
            assert array.dtype == expected[name].dtype and array.flags.writeable
            np.testing.assert_array_equal(array, expected[name], strict=True)
    assert arrays.read(tmp_path / "a.npz", ["number", "none"]).keys() == {"number"}
    with open(tmp_path / "a.npz", "rb") as file:
        assert arrays.read("remote", ["number"], file)["number"] == 2.5


def test_a_row_of_an_npz_is_read_when_it_is_asked_for(tmp_path):
    path = str(tmp_path / "x.npz")
    np.savez(path, a=np.arange(6).reshape(3, 2), x=np.ones(3), o=np.array([{}], dtype=object))
    shape, rows = arrays.rows(path, "a")
    assert shape == (3, 2) and next(rows).tolist() == [0, 1]
    for name, told in (("b", "no array b"), ("x", "no plain array"), ("o", "Python objects")):
        with pytest.raises(ValueError, match=f"x.npz.*{told}|{told}.*|{told}.*x.npz"):
            arrays.rows(path, name)


@pytest.mark.parametrize(
    "data, told",
    [
        (header("|u1", (HUGE, 8, 8, 3)) + b"few", "192000000000000 bytes, and has 3"),
        (header("|u1", (4,)) + b"many more", "4 bytes, and has 9"),
        (header("|u1", (-3,)) + b"abc", "uint8 .-3,., -3 bytes"),
        (header("<i8", (10**30,)), "bytes, and has 0"),
        (
            header("|O", (1,)) + b"cos\nsystem\n",
            "Python objects, .* can run any code",
        ),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "damaged|expected|large"),
        (b"\x93NUMPY\x09\x00" + header("|u1", (1,))[8:], "format .9, 0."),
        (b"", "EOF|magic"),
    ],
)
def test_what_is_not_there_is_not_allocated(tmp_path, data, told):
    path = save(tmp_path / "a.npz", arr_0=data)
    for read in (lambda: arrays.read(path), lambda: arrays.rows(path, "arr_0")):
        with pytest.raises(ValueError, match=told) as error:
            read()
        assert path in str(error.value)


def test_a_decompression_bomb_is_not_unpacked(tmp_path):
    size = arrays.SMALL + 1
    bomb = save(tmp_path / "bomb.npz", arr_0=header("|u1", (size,)) + bytes(size))
    with pytest.raises(ValueError, match=r"would unpack 0\.1 MB to 0\.1 GB.*np\.savez"):
        arrays.read(bomb)
    small = save(tmp_path / "small.npz", arr_0=header("|u1", (10**6,)) + bytes(10**6))
    assert not arrays.read(small)["arr_0"].any()


def test_a_flipped_bit_is_noticed(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=np.arange(100))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[500] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="damaged.*CRC"):
        arrays.read(tmp_path / "a.npz")
