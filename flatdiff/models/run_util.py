"""What surrounds a run: its folder and log, its images, and the samples that it shows of itself.

The scripts call these in order and stay tables of contents.
"""

import dataclasses
import os

import torch

from ..data import classes, image_datasets, readable
from ..flags import idle
from ..store import checkpoint, lock
from ..world import dist_util, lifeline, logger
from . import dtypes, generate
from .factories import create_chain

TRAINING = "training"  # of any network: they write files of the same names


def claim(flags, kind=""):
    """The absolute path of the log folder, for all ranks, which rank 0 holds until this run ends.

    ValueError where another run of this kind writes into it; by default the kind is that of the
    flags that come first. What is of another kind has other files, and may share the folder.
    """
    folder = flags.run.log_dir or os.environ.get("OPENAI_LOGDIR") or logger.new_folder()
    folder = dist_util.broadcast_object(checkpoint.absolute(folder))
    first = next(g for g in vars(flags).values() if dataclasses.is_dataclass(g))
    kind = kind or type(first).__name__.removesuffix("Flags").lower()
    if dist_util.rank() == 0:
        lock.take(folder, kind, lost=lambda text: lifeline.end(0, text, 1))
    return folder


def open_log(flags, step=None, own=True, auto=()):
    """`claim`s the folder, made if needed, and logs into it; returns its absolute path.

    What is logged there already stays. With `step`, the first of a training run, tables are kept
    too; if they are our own, without what older runs wrote after that step. `auto`: what --dtype
    auto is, and why; by default what is quickest here.
    """
    folder = claim(flags, TRAINING if step is not None else "")
    formats = ["stdout", "log"] if step is None else None
    logger.configure(folder, formats, rank=dist_util.rank(), append=True)
    if step is not None and own:
        logger.truncate(step)
    logger.caution(dist_util.caution())
    for name, text in flags.presets.items():
        logger.log(f"--preset {name}: {text}")
    for path in flags.files:
        logger.log(f"flags of {checkpoint.absolute(path)}")
    for text in idle.told(flags):
        logger.log(text)
    half = getattr(getattr(flags, "model", None), "use_fp16", False)
    flags.run = dtypes.decided(flags.run, *(("fp16", "--use_fp16 is True") if half else auto))
    return folder


def open_dataset(data, image_size, num_classes=None, known=None):
    """The images of a DataFlags, with labels for a network of `num_classes`, None: without.

    `known`: the classes that the network was trained on, empty if its names were not saved; None:
    it is to be trained, on those of these images.
    """
    labelled = num_classes is not None, data.class_from
    how = {"transparent": data.transparent}
    dataset = image_datasets.ImageDataset(data.data_dir, image_size, *labelled, **how)
    if data.skip_broken:
        must_be_readable(dataset, data)
    if num_classes is None:
        return dataset
    if known is not None:
        dataset.relabel(known)
    classes.trained(dataset.classes, num_classes)  # which refuses more classes than rows
    logger.log(f"labels: {classes.text(dataset.classes)}")
    if known is not None and not known:
        logger.warn(
            "warning: no class names were saved with the checkpoint, so labels count the classes "
            "of these images in the order of text, as guided-diffusion's: they are right if the "
            "network was trained on exactly these classes"
        )
    return dataset


def must_be_readable(dataset, data):
    """Decode each image once, a share of them on each rank. ValueError names all that cannot be
    read; with --skip_broken they are left out."""
    share = dist_util.rank(), dist_util.world_size()
    mine = readable.broken(dataset.source, share, share[0] == 0, decoders(data))
    every = dist_util.all_gather_object(sorted(mine.items()))
    reasons = dict(sorted(tuple(pair) for pairs in every for pair in pairs))
    if share[0] == 0 and share[1] > 1:
        readable.remember(dataset.source, reasons)
    dataset.must_be_readable(reasons, data.skip_broken)


def decoders(data):
    """Threads that decode images while nothing else runs: the rank's share of the cores."""
    return max(1, data.num_workers, torch.get_num_threads())


def preview(flags, dataset, conditions=None):
    """A function of the network that draws images in at most 100 steps, the same each time.

    It takes the images' indices too, by default the first 64. `conditions`: indices -> tensors
    [N, ...] for the network, by name; default labels of the dataset's classes, if class_cond.
    """
    steps = min(100, flags.diffusion.diffusion_steps)
    short = dataclasses.replace(flags.diffusion, timestep_respacing=str(steps))
    diffusion = create_chain(vars(short))
    shape, seed = (3, dataset.image_size, dataset.image_size), flags.run.seed

    def labels(indices):
        if dataset.labels is None:
            return {}
        rows = classes.trained(dataset.classes, flags.model.num_classes)
        return {"y": generate.draw_labels(indices, seed, rows)}

    def sample(model, indices=range(64)):
        given = (conditions or labels)(indices)
        return generate.sample_images(model, diffusion, indices, shape, seed=seed, **given)

    return sample
