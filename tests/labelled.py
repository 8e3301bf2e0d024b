"""Folders of images with classes, and the flags and checkpoints of networks that know them."""

import types

import small
from PIL import Image

from flatdiff.flags import config
from flatdiff.models import networks
from flatdiff.store import checkpoint
from flatdiff.train import continuing, starting

DIFFUSION = config.DiffusionFlags(diffusion_steps=10, noise_schedule="cosine")


def folder_of(path, *names, each=2):
    """A folder with images of these classes, each filled with the code of its class's letters."""
    path.mkdir()
    for name in names:
        for i in range(each):
            shade = sum(map(ord, name)) % 256
            Image.new("RGB", (8, 8), (shade,) * 3).save(path / f"{name}_{i}.png")
    return str(path)


def by_name(dataset):
    """Class -> label, read off the images' files."""
    names = (name.split("_")[0] for name in dataset.source.names)
    return dict(zip(names, dataset.labels.tolist()))


def flags_of(data_dir, num_classes, **train):
    return types.SimpleNamespace(
        run=config.RunFlags(),
        data=config.DataFlags(data_dir=data_dir),
        train=config.TrainFlags(**train),
        model=small.groups(class_cond=True, num_classes=num_classes)[0],
        diffusion=DIFFUSION,
        given={},
    )


def begin(flags, tmp_path, resume=""):
    dataset = starting.training_data(flags, resume, 8, flags.model.num_classes)
    continuing.keep_config(flags, dataset, resume)
    return dataset


def checkpoint_of(flags, path):
    model, _ = networks.build(flags.model, DIFFUSION)
    checkpoint.save(model.state_dict(), str(path))
    return str(path)
