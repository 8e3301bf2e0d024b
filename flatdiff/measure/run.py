"""The runner of all measures: flags and checkpoints in, a record of plain values and its files out.

Randomness is a function of the seed, an image's and a draw's number, so networks are compared on
common random numbers, and a record does not depend on the number of ranks or on interruptions.
"""

import contextlib
import functools
import os

import numpy as np
import torch
from torch import Tensor

from ..chain import probe
from ..flags import keys
from ..models import generate, networks, run_util
from ..store import checkpoint
from ..store.checkpoint import sha256
from ..store.model_paths import find_models, short_names
from ..world import dist_util, logger
from ..world.arithmetic import arithmetic
from . import exposure as exposures
from . import frame, moves, quantized, sources
from .chains import of_chain
from .finished import Finished
from .found import made, measured
from .kept import refuse_to_replace
from .subject import Subject

FLATNESS, EXPOSURE = "flatness.json", "exposure_bias.json"


def settings(flags) -> dict:
    """Return every flag that a number may depend on, and torch's version."""
    told = {"torch": torch.__version__, "device": dist_util.dev().type}
    return keys.values(flags, "result") | told | {"data_dir": flags.data.data_dir}


def check(flags) -> None:
    """Raise ValueError for flags that make no sense, and for checkpoints that are not there."""
    paths = find_models(flags.flatness.model_path, folders=True)
    if not flags.data.data_dir:
        raise ValueError("no data: give --data_dir, the images on which the losses are measured")
    made(flags.flatness.flatness, flags.flatness)
    sources.loss_of(flags)
    quantized.without_quant(flags)
    for path in paths:
        networks.chain_of(path, flags)


def check_exposure(flags) -> None:
    """Raise ValueError for flags that make no sense, or do not go with the checkpoints' chains, and
    for checkpoints that are not there."""
    f = flags.exposure
    made("exposure", f)
    generate.step_of(f.sampler)
    if f.move:
        moves.one(f.move, bool(f.average_path))
    quantized.without_quant(flags)
    for path in find_models(f.model_path):
        networks.chain_of(path, flags, flags.diffusion.timestep_respacing)


@arithmetic(tf32=False)
def flatness(flags, folder: str) -> dict:
    """Do what --flatness, which has passed `check`, says with every checkpoint: a record of
    "settings", "models", "rows", and for the surface of two "line".

    "models": a dict each, of `Subject.about` and the measure's `result`. A loss is a list of five:
    means over all timesteps, and each quarter of them; "..._images": its error over images.
    """
    measure = made(flags.flatness.flatness, flags.flatness)
    paths = find_models(flags.flatness.model_path, folders=True)
    flags = quantized.without_quant(sources.exact(flags) if measure.fp32 else flags)
    images = functools.cache(functools.partial(sources.load_images, flags))
    record, kind = {"settings": settings(flags), "models": []}, flags.flatness.flatness.split()[0]
    refuse_to_replace(os.path.join(folder, FLATNESS), record["settings"], paths, kind)
    with Finished(os.path.join(folder, "flatness_parts")) as finished:
        for name, path in zip(short_names(paths), paths):
            logger.log(f"{flags.flatness.flatness} of {path}")
            with sources.opened(name, path, flags, images) as subject:
                record["models"].append(measured(measure, subject, finished, len(paths))[0])
                warn_of_differences(record["models"])
                if measure.pair and len(paths) == 2 and path == paths[1]:
                    record["line"] = _line(measure, paths[0], subject, flags, finished)
    return record | {"rows": measure.rows(record)}


def _line(measure, start: str, end: Subject, flags, finished: Finished) -> dict | None:
    """Measure what lies between two networks; the key names the first one, too."""
    tasks = measure.pair(sources.weights_at(start, flags), end)
    finished.expect(len(tasks))
    identity = sha256(start) if os.path.isfile(start) else checkpoint.identity(start)
    found = finished.compute(tasks, measure.together, f"{end.key} {identity}")
    return measure.line(end, found)


def write_flatness(flags, record: dict, folder: str) -> list[str]:
    """Log the table and write all files of a study into the folder; returns their paths. Of each
    kind, flatness.json holds the newest, under its name."""
    measure = made(flags.flatness.flatness, flags.flatness)
    kind, path = flags.flatness.flatness.split()[0], os.path.join(folder, FLATNESS)
    logger.log(measure.text(record))
    known = checkpoint.load_json(path) if checkpoint.exists(path) else {}
    checkpoint.save_json(frame.without_nan(known | {kind: record}), path)
    return [path, *frame.write(measure, record, f"flatness_{kind}", folder, flags.flatness.format)]


def warn_of_differences(models: list[dict]) -> None:
    """Say what makes the last of the models hard to compare with the first."""
    first, last = models[0], models[-1]
    for key, why in (
        ("num_weights", "distances and sigmas mean different things"),
        ("image_size", "their losses are of different images"),
        ("t_range", "their losses are of different noise levels"),
    ):
        if first.get(key) != last.get(key):
            values = f"{first.get(key)} for {first['name']} and {last.get(key)} for {last['name']}"
            logger.warn(f"warning: {key} is {values}: {why}")
    of_x = [model.get("parts", {}).get("x_mse", {}).get("all", "") for model in (first, last)]
    if all(of_x) and len({*of_x}) > 1:
        logger.warn(f"warning: x_mse is of {of_x[0]} and of {of_x[1]}: no numbers to compare")


@arithmetic(tf32=False)
def exposure(flags, folder: str) -> dict:
    """Measure: a record of settings, what `exposures.about` says, and models.

    A model has name, path, sha256 and what `EXPOSURE.result` says. An estimate is {"value",
    "error"}: numbers, or lists over timesteps (least noise first) or channels. ValueError, before
    any chain is begun, for flags, files and networks that do not go together.
    """
    measure, f = made("exposure", flags.exposure), flags.exposure
    move = moves.one(f.move, bool(f.average_path)) if f.move else None
    paths = find_models(f.model_path)
    flags = quantized.without_quant(flags)
    refuse_to_replace(os.path.join(folder, EXPOSURE), settings(flags), paths)
    names = short_names(paths)
    loaded = {n: networks.from_checkpoint(p, flags) for n, p in zip(names, paths)}
    exposures.check_one_chain(loaded)
    x_start, labels = exposure_images(flags, [model for model, _ in loaded.values()])
    casting, models = networks.autocast(flags, dist_util.dev()), []
    with Finished(os.path.join(folder, "exposure_parts")) as finished:
        for path, (name, network) in zip(paths, loaded.items()):
            with contextlib.ExitStack() as held:
                held.enter_context(quantized.rounded(network[0], path, flags))
                if move:
                    start = _start(name, path, network[0], x_start, labels, flags)
                    distance = float(held.enter_context(moves.held(start, move)))
                    logger.log(f"{name} moved by {move}: ||w' - w|| is {distance:.4g}")
                held.enter_context(casting())
                subject = _chains(name, path, *network, x_start, labels, flags)
                subject.key += f" {start.key_of(move)}" if move else ""
                models.append(measured(measure, subject, finished, len(paths))[0])
    return {"settings": settings(flags)} | exposures.about(x_start, labels, network[1], models)


def _start(name, path, model, x_start, labels, flags) -> moves.Start:
    """What --move begins at: the network, its training's loss on the images of the study, and the
    weights of --average_path."""
    labels = labels if model.num_classes is not None else {}
    how = {"seed": flags.run.seed, "batch_size": flags.exposure.batch_size}
    images, chain = (x_start, labels, len(x_start)), networks.chain_of(path, flags)
    subject = of_chain(name, path, model, chain, images, dtype=networks.dtype_of(flags), **how)
    return moves.Start(subject, sources.average(flags.exposure.average_path, path, model, flags))


def write_exposure(flags, record: dict, folder: str) -> list[str]:
    """Log the table, write exposure_bias.json, .csv and .png, and where priors were shifted
    prior_shift.csv and .png; returns their paths."""
    measure, path = made("exposure", flags.exposure), os.path.join(folder, EXPOSURE)
    logger.log(measure.text(record))
    checkpoint.save_json(record, path)
    return [path, *frame.write(measure, record, "", folder, flags.exposure.format)]


def exposure_images(flags, models) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the images [N, 3, H, W] of the study, and their labels if a network has classes."""
    wanted = flags.exposure.num_images
    size, conditional = models[0].image_size, [m for m in models if m.num_classes is not None]
    kinds = dict.fromkeys((m.num_classes, m.classes) for m in conditional) or [(None, ())]
    dataset, *others = (run_util.open_dataset(flags.data, size, *kind) for kind in kinds)
    if any(not np.array_equal(dataset.labels, other.labels) for other in others):
        raise ValueError(
            "the networks have other labels for the same classes (config.json beside each): study "
            "them in runs of their own"
        )
    if dataset.num_images < wanted:
        logger.warn(
            f"warning: there are {dataset.num_images} images, and num_images is {wanted}: each is "
            "used once"
        )
    return probe.images_of(dataset, min(wanted, dataset.num_images), flags.run.seed)


def _chains(name, path, model, diffusion, x_start, labels, flags) -> exposures.Chains:
    """Put the network on this rank's batches: every world_size-th of all."""
    cond = labels if model.num_classes is not None else {}
    t = probe.timesteps(len(x_start), diffusion.num_timesteps, flags.run.seed)
    rows = torch.arange(len(x_start)).split(flags.exposure.batch_size)
    mine = rows[dist_util.rank() :: dist_util.world_size()]
    batches = [exposures.batch(part, x_start, t, cond, flags.run.seed) for part in mine]
    key = sources.key_of(flags, path, [x_start, *cond.values()])
    return exposures.Chains(name, path, model, diffusion, batches, key)
