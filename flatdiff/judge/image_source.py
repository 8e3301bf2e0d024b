"""Images to evaluate: an .npz with arr_0, a folder of pictures, or an array; read in batches.

Knows how many images there are and of what size without reading them all, and a hash of their
contents. An .npz is read as a stream, so memory does not grow with the number of images. What in a
folder is an image, and what its pixels are, is as in training: `flatdiff.pictures`.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator

import numpy as np

from . import arrays, pictures
from .files import sha256

STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
PIXELS = b"pixels 2"  # goes into fingerprints: another number where `pictures` reads otherwise


def open_images(
    source: "str | os.PathLike | np.ndarray", transparent: str = "white"
) -> "ArrayImages | NpzImages | Folder":
    """The images of a path, or of a uint8 array [N, H, W, 3]. ValueError says what does not fit.

    transparent: what becomes of a folder's transparent pictures, as in `pictures.read`.
    """
    if isinstance(source, np.ndarray):
        return ArrayImages(source)
    path = os.path.abspath(source)
    if os.path.isdir(path):
        return Folder(path, transparent)
    if not os.path.exists(path):
        raise ValueError(f"{path} does not exist; expected an .npz or a folder of images")
    return NpzImages(path)


class ArrayImages:
    """uint8 [N, H, W, 3] in memory."""

    notes: tuple[str, ...] = ()

    def __init__(self, array: np.ndarray):
        self.name, self.statistics = "array", {}
        _check(self.name, array.dtype, array.shape)
        self.array, self.num_images, self.size = array, len(array), array.shape[1:3]

    def fingerprint(self) -> str:
        array = np.ascontiguousarray(self.array)
        return hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest()

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        for start in range(0, self.num_images, batch_size):
            yield self.array[start : start + batch_size]


class NpzImages:
    """arr_0 of an .npz, uint8 [N, H, W, 3]; and the statistics mu, sigma, mu_s, sigma_s in it.

    A file of statistics alone has no images: num_images is 0 and size is None.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: str):
        self.name, self.num_images, self.size = path, 0, None
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is not an .npz, or it was cut off while it was written")
        with arrays.damaged(path), zipfile.ZipFile(path) as file:
            keys = [name.removesuffix(".npy") for name in file.namelist()]
        self.statistics = arrays.read(path, STATISTICS)
        if "arr_0" in keys:
            with arrays.opened(path, "arr_0") as (_, self.shape, dtype, by_columns):
                _check(path, dtype, self.shape)
            if by_columns:
                raise ValueError(f"{path} is in Fortran's order: save np.ascontiguousarray(images)")
            self.num_images, self.size = self.shape[0], self.shape[1:3]
        elif not {"mu", "sigma"} <= self.statistics.keys():
            raise ValueError(
                f"{path} has no arr_0 (the images, uint8 [N, H, W, 3]); it has "
                + ", ".join(keys[:5] + ["..."] * (len(keys) > 5))
            )
        _check_statistics(path, self.statistics)

    def fingerprint(self) -> str:
        return sha256([self.name], ends=True)

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        with arrays.opened(self.name, "arr_0") as (stream, *_):
            for start in range(0, self.num_images, batch_size):
                shape = (min(batch_size, self.num_images - start), *self.shape[1:])
                data = stream.read(int(np.prod(shape)))
                yield np.frombuffer(data, np.uint8).reshape(shape)


class Folder:
    """Pictures at any depth below a folder, sorted by path, all of one size.

    notes: a sentence for each kind of picture that was not simply read, known after `batches`.
    """

    size: tuple[int, int] | None = None  # that of the first picture

    def __init__(self, path: str, transparent: str = "white"):
        self.name, self.statistics, self.transparent = path, {}, transparent
        self.paths = sorted(os.path.join(path, name) for name in pictures.names_below(path))
        self.num_images, self._noted = len(self.paths), {}
        if self.num_images < 2:
            raise ValueError(
                f"{path} has {self.num_images} images ({', '.join(pictures.EXTENSIONS)}, not in "
                "hidden folders); expected 2 or more"
            )
        self.size = self._read(self.paths[0]).shape[:2]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(pictures.NOTES[key].format(name) for key, name in self._noted.items())

    def fingerprint(self) -> str:
        return sha256(self.paths, PIXELS + self.transparent.encode(), ends=True)

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        for start in range(0, self.num_images, batch_size):
            yield np.stack([self._read(p) for p in self.paths[start : start + batch_size]])

    def _read(self, path):
        image = np.array(pictures.read(path, path, self.transparent, self._noted.setdefault))
        if self.size and image.shape[:2] != self.size:
            raise ValueError(
                f"{path} has {_by(image.shape)} pixels, {self.paths[0]} has {_by(self.size)}: "
                "crop and resize the images to one size first"
            )
        return image


def check_same_size(reference, samples) -> None:
    if reference.size and samples.size and tuple(reference.size) != tuple(samples.size):
        raise ValueError(
            f"the reference {reference.name} has images of {_by(reference.size)} pixels, "
            f"the samples {samples.name} of {_by(samples.size)}: expected one size"
        )


def _check(name, dtype, shape):
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise ValueError(f"{name} is {dtype} {list(shape)}; expected uint8 [N, H, W, 3], 0 to 255")
    if shape[0] < 2:
        raise ValueError(f"{name} has {shape[0]} images; expected 2 or more")
    if 0 in shape:
        raise ValueError(f"{name} is {list(shape)}: its images have no pixels")


def _check_statistics(path, statistics):
    """Means [D] and covariances [D, D], finite."""
    for mu, sigma in (("mu", "sigma"), ("mu_s", "sigma_s")):
        if not {mu, sigma} & statistics.keys():
            continue
        m, s = (np.asarray(statistics.get(key, ())) for key in (mu, sigma))
        if m.ndim != 1 or s.shape != m.shape * 2 or {m.dtype.kind, s.dtype.kind} - set("fiu"):
            raise ValueError(
                f"{path} has {mu} {m.dtype} {list(m.shape)} and {sigma} {s.dtype} "
                f"{list(s.shape)}; expected numbers [D] and [D, D]"
            )
        if not (np.isfinite(m).all() and np.isfinite(s).all()):
            raise ValueError(f"{path} has NaN or infinite values in {mu} or {sigma}")


def _by(size):
    return f"{size[0]}x{size[1]}"
