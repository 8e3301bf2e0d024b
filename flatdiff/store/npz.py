"""npz files written row by row, so that memory does not grow with the number of images."""

import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .disk import writing


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
