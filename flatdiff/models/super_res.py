"""Small images for a super-resolution network: shrunk in training, read from a file to sample.

What a shrunk image is in training, the samples of a base model are afterwards.
"""

import os

import numpy as np
import torch
import torch.nn.functional as F

from ..data import classes
from ..data.image_datasets import to_float
from ..judge import arrays
from ..store import checkpoint
from . import generate


def shrink(images, small_size):
    """[N, 3, H, W] -> means over areas, [N, 3, small_size, small_size]."""
    return F.interpolate(images, small_size, mode="area")


def from_dataset(dataset, small_size, num_images):
    """Conditions for the preview: image index -> low_res, and y, of images across the dataset."""

    def conditions(indices):
        rows = [i * dataset.num_images // num_images for i in indices]
        images = to_float(np.stack([dataset.image(row) for row in rows]))
        labels = {} if dataset.labels is None else {"y": torch.from_numpy(dataset.labels[rows])}
        return {"low_res": shrink(images, small_size), **labels}

    return conditions


class BaseSamples:
    """The npz of a base model: image i enlarges row i, with its label; past the end, row 0 again.

    ValueError if the file does not hold uint8 images of small_size.
    """

    def __init__(self, path, small_size):
        if not path or not checkpoint.exists(path) or os.path.isdir(path):
            raise ValueError(f"no file {path!r}: give --base_samples FILE.npz, as image_sample's")
        held = arrays.read(path, ("arr_0", "arr_1", "class_names"))
        self.images, self.labels = held.get("arr_0", np.empty(0)), held.get("arr_1")
        self.names, shape = held.get("class_names"), (len(self.images), small_size, small_size, 3)
        self.path = path
        if not len(self.images) or self.images.shape != shape or self.images.dtype != np.uint8:
            raise ValueError(
                f"arr_0 of {path} is {self.images.dtype} {self.images.shape}; expected uint8 "
                f"{shape}: --small_size of the network is {small_size}"
            )
        if self.labels is not None:
            self.labels = classes.counted(self.labels, len(self.images), path)

    def low_res(self, indices):
        """Image indices -> {"low_res": [N, 3, h, w] in [-1, 1]}."""
        return {"low_res": to_float(self.images[self._rows(indices)])}

    def labels_for(self, flags, model):
        """A function of image indices that gives labels, or None for a network without classes.

        They are the file's, by name if it has names, unless there are --class_labels.
        """
        num_classes = model.num_classes
        if num_classes is None or flags.sample.class_labels:
            return generate.labels_of(flags, num_classes, model.classes)
        if self.labels is None:
            raise ValueError(
                f"{self.path} has no labels (arr_1), and the network needs them; "
                "give --class_labels, or base samples with labels"
            )
        if self.labels.max() >= num_classes:
            raise ValueError(
                f"{self.path} has labels up to {self.labels.max()}, and the network "
                f"{num_classes} classes: give base samples of the same classes"
            )
        labels = self.labels
        if model.classes:
            names = classes.named(labels, self.names, self.path)
            numbered = classes.is_numbered(names)
            _, labels = classes.relabelled(names, labels, model.classes, numbered)
        return lambda indices: torch.from_numpy(labels[self._rows(indices)])

    def _rows(self, indices):
        return [i % len(self.images) for i in indices]
