"""npz files row by row, so that memory does not grow with the number of images."""

import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .disk import reading, writing


def write(
    path: str, arrays: Mapping[str, tuple[tuple[int, ...], Any, Iterable]], **texts: str
) -> None:
    """Write an npz of (shape, dtype, rows) by name, a row in memory at a time, and behind them
    texts, each an array of one."""
    for name, text in texts.items():
        arrays = {**arrays, name: ((), f"<U{max(1, len(text))}", [text])}
    with writing(path) as whole, zipfile.ZipFile(whole, "w") as archive:
        for name, (shape, dtype, rows) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for row in rows:
                    file.write(np.asarray(row, dtype).tobytes())


def rows_of(path: str, name: str) -> tuple[tuple[int, ...], Iterator[np.ndarray]]:
    """(shape, rows) of one array of an npz; a row is read when it is asked for.

    ValueError where the file cannot be read, or has no such array of integers.
    """
    try:
        archive = zipfile.ZipFile(path)
        file = archive.open(f"{name}.npy")
        version = np.lib.format.read_magic(file)
        read = {(1, 0): "read_array_header_1_0"}.get(version, "read_array_header_2_0")
        shape, by_columns, dtype = getattr(np.lib.format, read)(file)
    except Exception as error:  # of zipfile, of numpy, and of what they read by
        raise ValueError(f"cannot read {name} of {path}: {error}") from error
    if by_columns or dtype.kind not in "iu":
        raise ValueError(
            f"{name} of {path} is no plain array of integers in C order: {dtype} {shape}"
        )

    def rows() -> Iterator[np.ndarray]:
        with reading(path), archive, file:
            for _ in range(shape[0]):
                data = file.read(math.prod(shape[1:]) * dtype.itemsize)
                yield np.frombuffer(data, dtype).reshape(shape[1:])

    return shape, rows()
