"""Arrays of an npz that may be anybody's: whole or by rows, within bounds, and none of its code.

What an array says of its size is held against what is there before anything is allocated: the bytes
of its member, and RATIO times those of the whole file. Knows numpy alone.
"""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

RATIO = 200  # images seldom shrink tenfold, and zeros a thousandfold
SMALL = 1 << 26  # bytes that are no burden, however they are packed
AT_ONCE = 1 << 24  # bytes


class Stream(NamedTuple):
    """The data of one array, from its first byte on, and what they are."""

    file: BinaryIO
    shape: tuple[int, ...]
    dtype: np.dtype
    by_columns: bool


def read(
    path: str | os.PathLike, names: Iterable[str] | None = None, file: BinaryIO | None = None
) -> dict[str, np.ndarray]:
    """Return the arrays of these names that an npz has, None: all; `file`: it, if it is open.

    ValueError, with the path, where it is damaged, claims what it has not, or holds objects.
    """
    with damaged(path), zipfile.ZipFile(file or path) as archive:
        found = {n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")}
        chosen = found if names is None else [name for name in names if name in found]
        return {name: _whole(archive, name) for name in chosen}


@contextlib.contextmanager
def opened(path: str | os.PathLike, name: str) -> Iterator[Stream]:
    """The stream of one array; errors as `read`'s."""
    with damaged(path), zipfile.ZipFile(path) as archive, _member(archive, name) as stream:
        yield stream


def rows(path: str | os.PathLike, name: str) -> tuple[tuple[int, ...], Iterator[np.ndarray]]:
    """(shape, rows) of one array of integers; a row is read when it is asked for."""
    with opened(path, name) as stream:
        _, shape, dtype, by_columns = stream
    if by_columns or dtype.kind not in "iu" or not shape:
        raise ValueError(
            f"{name} of {path} is no plain array of integers in C order: {dtype} {shape}"
        )

    def each() -> Iterator[np.ndarray]:
        with opened(path, name) as (file, *_):
            for _ in range(shape[0]):
                data = file.read(math.prod(shape[1:]) * dtype.itemsize)
                yield np.frombuffer(data, dtype).reshape(shape[1:])

    return shape, each()


@contextlib.contextmanager
def damaged(path: str | os.PathLike) -> Iterator[None]:
    """A context in which whatever a broken archive raises is a ValueError that names it."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise ValueError(f"cannot read {path}: it is damaged, or no npz ({reason})") from error


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[Stream]:
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it has no array {name}, but {archive.namelist()[:5]}") from None
    with archive.open(info) as file:
        version = npy.read_magic(file)
        known = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in known:
            raise ValueError(f"{name} is of npy's format {version}, expected 1.0 or 2.0")
        shape, by_columns, dtype = known[version](file)
        if dtype.hasobject:
            raise ValueError(
                f"{name} holds Python objects, and reading those can run any code; save numbers"
            )
        claimed, held = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
        if claimed != held or min(shape, default=0) < 0:
            raise ValueError(
                f"{name} says that it is {dtype} {shape}, {claimed} bytes, and has {held}"
            )
        packed = archive.fp.seek(0, os.SEEK_END)
        if held > max(SMALL, RATIO * packed):
            raise ValueError(
                f"{name} would unpack {packed / 1e6:.1f} MB to {held / 1e9:.1f} GB, as a "
                "decompression bomb does; if it is what you want, save it anew by np.savez"
            )
        yield Stream(file, shape, dtype, by_columns)


def _whole(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with _member(archive, name) as (file, shape, dtype, by_columns):
        data = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
        for start in range(0, len(data) or 1, AT_ONCE):  # the end of none is read too: a checksum
            piece = file.read(min(AT_ONCE, len(data) - start) or 1)
            data[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        array = data.view(dtype) if len(data) else np.empty(shape, dtype)
        return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
