"""Image files and their squares: list, open, crop, resize; and back to PNG.

The one way from a picture of any size to a uint8 array [image_size, image_size, 3], and the one
place that knows folders, zip and npz; local, or remote where blobfile reads them. Which files are
images, and what their pixels are, is in `pictures`. Does not know torch.
"""

import functools
import math
import multiprocessing
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from ..bars import Bar
from ..judge import arrays, pictures
from ..store import remote as bf
from ..store.disk import is_remote, naming, writing
from ..world import logger

LARGEST = 1 << 26  # pixels of an image made larger
GRID_GAP = 2  # white pixels between the images of a grid


def list_image_files(data_dir: str) -> list[str]:
    """Paths of all images below `data_dir`; each folder's files and folders sorted by name."""
    return [bf.join(data_dir, name) for name in _names_below(data_dir)]


def _names_below(data_dir: str) -> Iterator[str]:
    def remote(folder: str) -> Iterator[tuple[str, bool]]:
        return ((entry.name, entry.is_dir) for entry in bf.scandir(folder))

    return pictures.names_below(data_dir, remote if is_remote(data_dir) else pictures.local_entries)


def center_crop_arr(pil_image: Image.Image, image_size: int) -> np.ndarray:
    """The middle square at full height or width, resized; a square of that size comes unchanged.

    guided-diffusion's rule: BOX halvings while twice too large, BICUBIC to the size, then an
    integer crop. Smaller images are enlarged. Returns uint8 [image_size, image_size, 3].
    """
    image = np.array(_with_smaller_side(pil_image, image_size))
    top, left = (np.array(image.shape[:2]) - image_size) // 2
    return image[top : top + image_size, left : left + image_size]


def random_crop_arr(
    pil_image: Image.Image,
    image_size: int,
    rng: np.random.Generator,
    min_crop_frac: float = 0.8,
    max_crop_frac: float = 1.0,
) -> np.ndarray:
    """A random square: `image_size` is a share in [min, max]_crop_frac of the resized smaller side.

    Resized as in `center_crop_arr`. Returns uint8 [image_size, image_size, 3].
    """
    smallest = math.ceil(image_size / max_crop_frac)
    largest = math.ceil(image_size / min_crop_frac)
    smaller_side = int(rng.integers(smallest, largest, endpoint=True))
    image = np.array(_with_smaller_side(pil_image, smaller_side))
    top = rng.integers(image.shape[0] - image_size, endpoint=True)
    left = rng.integers(image.shape[1] - image_size, endpoint=True)
    return image[top : top + image_size, left : left + image_size]


def _with_smaller_side(image: Image.Image, side: int) -> Image.Image:
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    if max(image.size) * scale * side > LARGEST:
        raise ValueError(
            f"{getattr(image, 'filename', 'an image')} is {image.width}x{image.height} pixels: "
            f"too long to be resized to {side} on its smaller side; crop or remove it"
        )
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


# Where images are: each source has `names` (or None), a length and `open(i)` -> an RGB image


def open_images(data_dir: str, transparent: str = "white") -> "Folder | Zip | Npz":
    """The images of a folder, .zip or .npz; ValueError if there are none. See `pictures.read`."""
    if not data_dir:
        raise ValueError("unspecified data directory: give a folder of images, a .zip or an .npz")
    if not bf.exists(data_dir):
        raise ValueError(f"the data directory {data_dir} does not exist (from {os.getcwd()})")
    if bf.isdir(data_dir):
        source = Folder(data_dir, transparent)
    elif data_dir.lower().endswith(".zip"):
        source = Zip(data_dir, transparent)
    elif data_dir.lower().endswith(".npz"):
        source = Npz(data_dir)
    else:
        raise ValueError(f"{data_dir} is neither a folder of images nor a .zip nor an .npz")
    if len(source) == 0:
        raise ValueError(
            f"no images in {data_dir}: looked for {', '.join(pictures.EXTENSIONS)}, and not in "
            "hidden folders"
        )
    return source


class Notes:
    """Logs each of `pictures.NOTES` once, whichever of the processes that decode meets it."""

    def __init__(self):
        self.said = multiprocessing.RawArray("b", len(pictures.NOTES))

    def __call__(self, key: str, name: str) -> None:
        i = list(pictures.NOTES).index(key)
        if not self.said[i]:
            self.said[i] = 1
            logger.log(pictures.NOTES[key].format(name))


class Folder:
    """Image files at any depth below a folder; `names` are relative to it."""

    def __init__(self, data_dir: str, transparent: str = "white"):
        self.data_dir, self.transparent, self.note = data_dir.rstrip("/"), transparent, Notes()
        self.names = list(_names_below(data_dir))

    def __len__(self) -> int:
        return len(self.names)

    def open(self, i: int) -> Image.Image:
        path = f"{self.data_dir}/{self.names[i]}"
        return pictures.read(lambda: bf.BlobFile(path, "rb"), path, self.transparent, self.note)


class Zip:
    """Image files in a zip archive, in the order in which the unpacked folder has them."""

    def __init__(self, path: str, transparent: str = "white"):
        self.path, self.transparent, self.note = path, transparent, Notes()
        try:
            members = _opened_zip(path, os.getpid()).namelist()
        except pictures.DAMAGES as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        # some writers of Windows part folders by \; of two members with one name the last counts
        self.members = {name.replace("\\", "/"): name for name in members}
        names = filter(pictures.is_picture, self.members)
        self.names = sorted(names, key=lambda name: name.split("/"))

    def __len__(self) -> int:
        return len(self.names)

    def open(self, i: int) -> Image.Image:
        name, archive = self.names[i], _opened_zip(self.path, os.getpid())
        told = f"{name} in {self.path}", self.transparent, self.note
        return pictures.read(lambda: archive.open(self.members[name]), *told)


@functools.lru_cache(maxsize=4)
def _opened_zip(path: str, pid: int) -> zipfile.ZipFile:
    """Opened once in each process: forked processes that share a file would move its position."""
    return zipfile.ZipFile(bf.BlobFile(path, "rb"))


class Npz:
    """guided-diffusion's sample files: `arr_0` uint8 [N, H, W, 3], perhaps `arr_1` labels [N].

    Ours may have `class_names` too: text, the name of each label, "" where there is none.
    """

    names = None

    def __init__(self, path: str):
        try:
            with bf.BlobFile(path, "rb") as file:
                held = arrays.read(path, ("arr_0", "arr_1", "class_names"), file)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        if "arr_0" not in held:
            raise ValueError(f"{path} has no arr_0: save with np.savez(path, images)")
        self.path, self.images, self.labels = path, held["arr_0"], held.get("arr_1")
        self.class_names = held.get("class_names")
        shape, dtype = self.images.shape, self.images.dtype
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or 0 in shape[1:3]:
            raise ValueError(f"arr_0 of {path} is {dtype} {shape}, expected uint8 (N, H, W, 3)")

    def __len__(self) -> int:
        return len(self.images)

    def open(self, i: int) -> Image.Image:
        return Image.fromarray(self.images[i])


def save_images(images: Iterable[np.ndarray], folder: str, names: Sequence[str]) -> None:
    """Write uint8 [H, W, 3] images as `folder/NAME.png`; the folder appears when all are written.

    `folder` is local, and new or empty. Images may come from a generator: one is held at a time.
    """
    folder = os.path.realpath(folder)  # where a link leads: none gives way to a folder
    partial = f"{folder}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    pairs = zip(names, images, strict=True)
    for name, image in Bar(pairs, desc="writing images", total=len(names)):
        path = os.path.join(partial, f"{name}.png")
        with naming(path):
            Image.fromarray(np.asarray(image)).save(path)
    os.replace(partial, folder)


def grid_of(
    images: np.ndarray, num_columns: int | None = None, scale: int | None = None
) -> np.ndarray:
    """uint8 images [N, H, W, 3] as one, row by row.

    By default about as many columns as rows, and images under 64 pixels enlarged towards that,
    each pixel to `scale` x `scale`.
    """
    images = np.asarray(images)
    num_columns = num_columns or math.ceil(math.sqrt(len(images)))
    scale = scale or max(1, 64 // images.shape[1])
    num_rows = math.ceil(len(images) / num_columns)
    height, width = images.shape[1] * scale, images.shape[2] * scale
    down, across = height + GRID_GAP, width + GRID_GAP
    grid = np.full((num_rows * down, num_columns * across, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // num_columns * down, i % num_columns * across
        grid[top : top + height, left : left + width] = image.repeat(scale, 0).repeat(scale, 1)
    return grid[:-GRID_GAP, :-GRID_GAP]


def save_grid(images: np.ndarray, path: str, **how: int) -> np.ndarray:
    """Write the `grid_of` the images as a PNG, whole or not at all; returns it."""
    grid = grid_of(images, **how)
    if not is_remote(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with writing(path) as file:
        Image.fromarray(grid).save(file, "PNG")
    return grid
