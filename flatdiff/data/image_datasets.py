"""Files -> float32 [N, 3, H, W] in [-1, 1], and back.

`ImageDataset` is the images, `Batches` the function from a step to its batch, `loader` the
iterator that makes them ahead of time. What a batch holds depends on (seed, step) alone: not on
the number of ranks, nor on what was read before. How files are read, cropped and written is in
`image_files`. Does not know models, devices or who the other ranks are.
"""

import functools
import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import torch
from torch import Tensor

from ..rng import CROP, EPOCH, of_numpy
from ..world import logger
from . import readable, workers
from .classes import Classes, classes_of, is_numbered, relabelled
from .image_files import Npz, center_crop_arr, open_images, random_crop_arr

Batch = tuple[Tensor, dict[str, Tensor]]


class ImageDataset:
    """The images of a folder, zip or npz (`arr_0`), as squares of `image_size`.

    num_images: how many; classes: the name of each label, [] without `class_cond`; labels: int64
    [num_images] or None. `class_from` ("prefix" or "folder") says where a file's class stands;
    `transparent` ("white", "refuse" or "drop") what becomes of transparent images.
    ValueError names what is missing or broken.
    """

    def __init__(
        self,
        data_dir: str,
        image_size: int,
        class_cond: bool = False,
        class_from: str = "prefix",
        cache_bytes: int = 2 << 30,
        transparent: str = "white",
    ):
        self.source = open_images(data_dir, transparent)
        self.image_size, self.num_images = image_size, len(self.source)
        labelled = classes_of(self.source, class_from) if class_cond else ([], None)
        self.classes, self.labels = labelled
        self.cache_bytes, self._squares, self.skip_broken = cache_bytes, None, False
        if isinstance(self.source, Npz) and self.source.images.shape[1:3] == (image_size,) * 2:
            self._squares = self.source.images

    def relabel(self, known: Classes) -> None:
        """Label the images as a network does whose classes are `known`, empty if it has no names.

        See `classes.relabelled`. ValueError names classes that the network does not have.
        """
        numbered = isinstance(self.source, Npz) and is_numbered(self.classes)
        self.classes, self.labels = relabelled(self.classes, self.labels, known, numbered)

    def image(self, i: int) -> np.ndarray:
        """The centre crop of image `i`, uint8 [image_size, image_size, 3]."""
        if self._squares is not None:
            return self._squares[i]
        return center_crop_arr(self.source.open(i), self.image_size)

    def random_crop(self, i: int, rng: np.random.Generator) -> np.ndarray:
        """A random crop of image `i`, uint8 [image_size, image_size, 3]."""
        return random_crop_arr(self.source.open(i), self.image_size, rng)

    def squares(self, progress: bool = True, threads: int = 1) -> np.ndarray | None:
        """All centre crops, uint8 [N, H, W, 3], kept in memory; None if above `cache_bytes`.
        threads: that decode together."""
        shape = (self.num_images, self.image_size, self.image_size, 3)
        if self._squares is None and np.prod(shape, dtype=np.int64) <= self.cache_bytes:
            squares = np.empty(shape, dtype=np.uint8)

            def decode(i: int) -> None:
                squares[i] = self.image(i)

            if reasons := readable.decoded(range(self.num_images), decode, progress, threads):
                raise ValueError(self._told(reasons))
            self._squares = squares
        return self._squares

    def must_be_readable(self, reasons: Mapping[int, str], skip: bool = False) -> None:
        """Leave out the images with what is wrong with them, as `readable.broken` has it, by index.

        ValueError names all of them unless `skip`; with it, one that can be read now and not later
        is passed over, too.
        """
        self.skip_broken = skip
        if not reasons:
            return
        if not skip or len(reasons) == self.num_images:
            raise ValueError(self._told(reasons))
        logger.warn(f"warning: {self._told(reasons, f'--skip_broken leaves out {len(reasons)}')}")
        left = [i for i in range(self.num_images) if i not in reasons]
        self.source.names = [self.source.names[i] for i in left]
        self.labels = None if self.labels is None else self.labels[left]
        self.num_images = len(left)

    def _told(self, reasons: Mapping[int, str], advice: str = "") -> str:
        advice = advice or "remove them, or give --skip_broken True to leave them out"
        return f"{readable.told(reasons, self.num_images)}. {advice}".removesuffix(".")


def fingerprint(dataset: ImageDataset, looked_at: int = 1000) -> str:
    """A hash of the images as the network sees them: how many, their labels, and the pixels of so
    many of them, evenly spread."""
    digest = hashlib.sha256(json.dumps([dataset.num_images, dataset.classes]).encode())
    count = min(dataset.num_images, looked_at)
    for i in np.linspace(0, dataset.num_images - 1, count).round().astype(int):
        digest.update(dataset.image(int(i)).tobytes())
    if dataset.labels is not None:
        digest.update(np.asarray(dataset.labels, np.int64).tobytes())
    return digest.hexdigest()[:16]


class Batches:
    """The endless sequence of batches: `batches[step]` -> (images, {"y": labels} or {}).

    images: float32 [batch_size, 3, H, W] in [-1, 1]; labels: int64 [batch_size].
    One stream of images joins the epochs, each a permutation drawn from (seed, epoch), or the
    files' order if `deterministic`. The global batch of a step is the next
    `batch_size * num_shards` positions of the stream, and shard k holds its k-th part. Flip and
    crop are drawn from (seed, position).
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
        random_crop: bool = False,
        random_flip: bool = False,
        deterministic: bool = False,
    ):
        if batch_size < 1 or seed < 0:
            raise ValueError(f"batch_size {batch_size} and seed {seed} must be >= 1 and >= 0")
        if not 0 <= shard < num_shards:
            raise ValueError(f"shard is {shard}, expected 0 <= shard < num_shards = {num_shards}")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.shard, self.num_shards = shard, num_shards
        self.random_crop, self.random_flip = random_crop, random_flip
        self.deterministic = deterministic
        self._squares = None if random_crop else dataset.squares(progress=shard == 0)
        self.in_memory = self._squares is not None  # else images are decoded each time

    def __getitem__(self, step: int) -> Batch:
        first = (step * self.num_shards + self.shard) * self.batch_size
        positions = np.arange(first, first + self.batch_size)
        indices, flips = self._draw(positions)
        images = self._images(indices, positions)  # which may change the indices
        if self.random_flip:
            images[flips] = images[flips, :, ::-1]
        labels = self.dataset.labels
        cond = {} if labels is None else {"y": torch.from_numpy(labels[indices])}
        return to_float(images), cond

    def _draw(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image at each position of the stream, and whether it is mirrored; both [B]."""
        epochs, offsets = np.divmod(positions, self.dataset.num_images)
        indices, flips = offsets.copy(), np.empty(len(positions), dtype=bool)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order, mirrored = _epoch(self.dataset.num_images, self.seed, int(epoch))
            flips[here] = mirrored[offsets[here]]
            if not self.deterministic:
                indices[here] = order[offsets[here]]
        return indices, flips

    def _images(self, indices: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, 3], a copy."""
        if self._squares is not None:
            return self._squares[indices]
        return np.stack([self._image(indices, k, position) for k, position in enumerate(positions)])

    def _image(self, indices: np.ndarray, k: int, position: int) -> np.ndarray:
        """The crop of image indices[k]; with --skip_broken of the next one that can be read, whose
        index is then there."""
        data = self.dataset
        for _ in range(data.num_images):
            try:
                if not self.random_crop:
                    return data.image(indices[k])
                return data.random_crop(indices[k], of_numpy(self.seed, CROP, position))
            except ValueError:
                if not data.skip_broken:
                    raise
                data.source.note("lost", data.source.names[indices[k]])
                indices[k] = (indices[k] + 1) % data.num_images
        raise ValueError(f"none of the {data.num_images} images can be read any more")


@functools.lru_cache(maxsize=4)
def _epoch(num_images: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Order of the images in one epoch, and which are mirrored in it; both [num_images]."""
    rng = of_numpy(seed, EPOCH, epoch)
    return rng.permutation(num_images), rng.random(num_images) < 0.5


def loader(batches: Batches, start: int = 0, num_workers: int = 0) -> Iterator[Batch]:
    """batches[start], batches[start + 1], ... without end, made ahead while the last is used.

    Images that must be decoded come from `num_workers` processes, if not 0; otherwise, and always
    from memory, from one thread. Pinned where there is CUDA. An error in the making is raised here.
    """
    if num_workers == 0 or batches.in_memory:
        yield from _ahead(batches, start)
        return
    yield from workers.batches(batches, start, num_workers)


def _ahead(batches: Batches, start: int, depth: int = 2) -> Iterator[Batch]:
    """batches[start], ..., with the next `depth` waiting or being made in a thread."""
    cuda = torch.cuda.is_available()
    # without its device set, the thread would open a second context on device 0
    device = (torch.cuda.set_device, (torch.cuda.current_device(),)) if cuda else (None, ())

    def make(step):
        images, cond = batches[step]
        if cuda:
            return images.pin_memory(), {key: value.pin_memory() for key, value in cond.items()}
        return images, cond

    with ThreadPoolExecutor(1, "batches", *device) as thread:
        waiting = deque(thread.submit(make, step) for step in range(start, start + depth))
        for step in count(start + depth):
            waiting.append(thread.submit(make, step))
            yield waiting.popleft().result()


def to_float(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1], contiguous."""
    images = np.asarray(images).transpose(0, 3, 1, 2)
    x = np.empty(images.shape, dtype=np.float32)
    np.divide(images, 127.5, out=x, dtype=np.float32)
    return torch.from_numpy(np.subtract(x, 1, out=x))


def to_uint8(x: Tensor) -> Tensor:
    """[N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3] on the same device.

    Truncates as guided-diffusion does, so a value on an integer may come back one lower.
    """
    x = ((x.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    return x.permute(0, 2, 3, 1).contiguous()
