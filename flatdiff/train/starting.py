"""How a training begins: what it goes on from, its data, its config.json, and its first lines.

The scripts call these in order and stay tables of contents.
"""

import dataclasses
import math
import os

import torch
from torch import nn

from ..chain.resample import create_named_schedule_sampler
from ..data import classes, image_datasets
from ..flags import choices
from ..flags.choices import GRADIENTS, TRACKERS
from ..flags.config import TrainFlags, checked, to_dict
from ..models import factories, networks, objectives
from ..models.run_util import TRAINING, claim, decoders, must_be_readable, open_dataset, open_log
from ..store import checkpoint, lock, steps
from ..world import dist_util, logger
from . import continuing
from .averages import room
from .train_util import TrainLoop


def start_training(flags):
    """Find what to go on from, and open the log; returns the checkpoint or ""."""
    train = flags.train
    folder = os.path.expanduser(flags.run.log_dir or os.environ.get("OPENAI_LOGDIR", ""))
    if folder:
        claim(flags, TRAINING)  # before it is looked at
    if train.resume not in ("", "auto"):
        raise ValueError(
            f"--resume {train.resume!r}: expected auto (the newest checkpoint of the log folder); "
            "for a file of your choice give --resume_checkpoint FILE"
        )
    newest, wrong = _newest(folder, train)
    path = _begin_from(folder, train, newest) if folder else train.resume_checkpoint
    own = not folder or bool(checkpoint.config_in(folder) or checkpoint.complete_steps(folder))
    step = max(0, checkpoint.parse_resume_step_from_filename(path))
    before = checkpoint.config_of(path)[0].get("run", {}).get("dtype") if path else None
    auto = (before, f"{path} was trained in it") if before else ()
    folder = open_log(flags, step=step, own=own, auto=auto)
    _tell_idle(flags)
    for problem in wrong:
        kept = f"its files are kept as *{steps.DAMAGED}"
        logger.warn(f"warning: {problem}; an older step is gone on from, and {kept}")
    if path:
        _refuse_another_network(flags, path)
        continuing.tell_changes(flags, path)
        logger.log(f"going on from {checkpoint.absolute(path)}")
    elif train.resume:
        logger.log("--resume auto: no checkpoint here yet, starting anew")
    if dist_util.rank() == 0:
        _clean(folder)
    return path


def _clean(folder):
    """Delete what killed runs left unfinished, where no other run writes now."""
    if busy := lock.others(folder):
        logger.log(f"this folder is written into by others too: {'; '.join(busy)}")
    else:
        checkpoint.clean(folder)


def check(flags):
    """ValueError for flags of which no training can be made: found without the network's weights,
    and by a step of another of a few weights, since a gradient refuses its knobs as it is taken."""
    with torch.device("meta"):
        _, diffusion = networks.build(flags.model, flags.diffusion)
    classes = flags.model.num_classes if flags.model.class_cond else 0
    toy = _Toy(6 if flags.diffusion.learn_sigma else 3, classes)
    arguments = loop_arguments(flags.train) | {
        "schedule_sampler": create_named_schedule_sampler(flags.train.schedule_sampler, diffusion)
    }
    arguments |= {"resume": "", "resume_checkpoint": "", "init_from": ""}
    loop = TrainLoop(model=networks.place(toy), diffusion=diffusion, data=(), **arguments)
    cond = {"y": torch.zeros(loop.batch_size, dtype=torch.int64)} if classes else {}
    loop.run_step(torch.zeros(loop.batch_size, 3, 2, 2), cond)


class _Toy(nn.Module):
    """A network of a few weights, whose images have any size."""

    def __init__(self, out_channels, num_classes):
        super().__init__()
        self.num_classes = num_classes or None
        self.weight = nn.Parameter(torch.ones(out_channels, 3, 1, 1))

    def forward(self, x, t, y=None):
        return nn.functional.conv2d(x, self.weight)


def _tell_idle(flags):
    """Warn of flags of the network that do nothing in a network of its kind."""
    if model := getattr(flags, "model", None):
        given = [name for name, value in vars(model).items() if value != getattr(type(model), name)]
        for name in factories.idle(model.network, given):
            logger.warn(f"warning: --{name} has no effect on --network {model.network}")


def _newest(folder, train):
    """The model file of the folder's newest step, or None, and what is wrong with any newer step;
    which is looked at where a run is to go on from it, by rank 0."""
    if train.resume != "auto" or not folder:
        return checkpoint.find_resume_checkpoint(folder) if folder else None, []
    return dist_util.broadcast_object(steps.newest_whole(folder) if dist_util.rank() == 0 else None)


def _begin_from(folder, train, newest):
    """The checkpoint that a training in this folder goes on from, or ""; its newest is given.

    ValueError where files would be written over that are not of the run that goes on.
    """
    held, own = checkpoint.step_files(folder), checkpoint.config_in(folder)
    half_saved = False
    if held and not newest:  # guided-diffusion's, or killed while it was saved for the first time
        begun = own.get("train", {}).get("resume_checkpoint", "")
        beside = checkpoint.absolute(os.path.dirname(begun)) == checkpoint.absolute(folder)
        half_saved = bool(own) and not (begun and beside)
        last = checkpoint.model_name(max(held.values()))
        newest = "" if half_saved else begun or (f"{folder}/{last}" if last in held else "")
    path = (train.resume and newest) or train.resume_checkpoint
    taken = [os.path.basename(newest)] if newest else sorted(held)
    taken += [n for n in ("progress.csv", "progress.json") if checkpoint.exists(f"{folder}/{n}")]
    goes_on = newest and checkpoint.absolute(path) == checkpoint.absolute(newest)
    begins_again = train.resume and own and (half_saved or not held)
    if goes_on or begins_again:
        taken = []
    if not own and checkpoint.exists(f"{folder}/{checkpoint.CONFIG}"):
        taken.append(f"the {checkpoint.CONFIG} of another program")
    if taken:
        go_on = "--resume auto to go on, or " if not train.resume and (newest or own) else ""
        raise ValueError(
            f"{checkpoint.absolute(folder)} already holds a run ({', '.join(taken[:3])}), whose "
            f"files would be overwritten. Give {go_on}another --log_dir"
        )
    return path


def _refuse_another_network(flags, path):
    """A resumed run has the network and the chain that it had, defaults included."""
    trained, source = checkpoint.config_of(path)
    for name in vars(flags).keys() & {"model", "super_res", "classifier", "diffusion"}:
        group = getattr(flags, name)
        values = checked(type(group), trained.get(name, {}), source)
        for field in dataclasses.fields(group):
            was, now = values.get(field.name), getattr(group, field.name)
            if field.metadata["fixed"] and was is not None and was != now:
                raise ValueError(
                    f"{field.name} was {was!r} when {path} was trained ({source}), and is "
                    f"{now!r} now; give --{field.name} {was} to go on"
                )


def training_data(flags, resume_checkpoint, image_size, num_classes=None):
    """The images of a training run, labelled as the weights that it begins with have them."""
    begun = resume_checkpoint or flags.train.init_from
    known = classes.saved(*checkpoint.config_of(begun)) if begun else None
    dataset = open_dataset(flags.data, image_size, num_classes, known)
    how = dist_util.rank() == 0, decoders(flags.data)
    if flags.train.random_crop or dataset.squares(*how) is None:
        must_be_readable(dataset, flags.data)
    used = len(classes.trained(dataset.classes, num_classes)) if num_classes else 0
    if num_classes and used < num_classes:
        logger.warn(
            f"warning: the network has rows for {num_classes} classes, and the images are of "
            f"{used}: no image trains the other rows, and no sample is drawn from them"
        )
    return dataset


def training_loop(
    flags, model, diffusion, dataset, resume_checkpoint, conditions=lambda images: {}, **more
):
    """The TrainLoop of TrainFlags on the dataset, whose config.json it keeps.

    `conditions`: images [N, 3, H, W] -> further tensors [N, ...] for the network, by name. `more`:
    arguments of TrainLoop that go before those of the flags.
    """
    networks.place(model)
    if flags.run.compile:
        networks.compile_network(model)
    own = batches(flags, dataset, flags.train.random_crop)

    def data(start):
        for images, cond in image_datasets.loader(own, start, flags.data.num_workers):
            yield images, cond | conditions(images)

    arguments = loop_arguments(flags.train) | {
        "schedule_sampler": create_named_schedule_sampler(flags.train.schedule_sampler, diffusion),
        "resume_checkpoint": resume_checkpoint,
    }
    run = {name: getattr(flags.run, name) for name in ("dtype", "seed", "deterministic")}
    arguments |= run | {n: getattr(flags.model, n) for n in ("use_fp16", "class_dropout")}
    images = continuing.images_of(dataset, resume_checkpoint, flags.train.allow_change)
    loop = TrainLoop(model=model, diffusion=diffusion, data=data, **arguments | more)
    # since the weights to go on from did fit
    continuing.keep_config(flags, dataset, resume_checkpoint, step=loop.step, images=images)
    if resume_checkpoint and dist_util.rank() == 0:
        steps.set_aside(logger.get_dir(), after=loop.step)  # which were not whole
    if flags.train.tracker and dist_util.rank() == 0:
        tracker = choices.bound(TRACKERS, flags.train.tracker)
        logger.also(tracker(logger.get_dir(), to_dict(flags), goes_on=loop.step > 0))
    return loop


def batches(flags, dataset, random_crop):
    """This rank's part of the batches of a TrainFlags."""
    return image_datasets.Batches(
        dataset,
        flags.train.batch_size,
        seed=flags.run.seed,
        shard=dist_util.rank(),
        num_shards=dist_util.world_size(),
        random_crop=random_crop,
        random_flip=flags.train.random_flip,
    )


def loop_arguments(train):
    """What TrainLoop takes of a TrainFlags, or of one that adds to it."""
    known = {f.name for f in dataclasses.fields(TrainFlags)} | {"eval_interval"}
    return {k: v for k, v in vars(train).items() if k in known}


def describe(flags, loop, dataset):
    """The block at the start: what is trained, on what, where, and until when."""
    millions = sum(w.numel() for w in loop.weights) / 1e6
    train = flags.train
    averages = [f"EMA {rate}" for rate in loop.emas]
    if swa := loop.swa:
        averages.append(f"SWA of every {swa.window} steps from step {swa.start}")
    averages += filter(None, train.averages.split(","))
    averages += [room(loop)] if train.posthoc_ema else []
    until = f"from step {loop.step} to step {loop.end_step}"
    if loop.end_step == math.inf:
        until = "trains until stopped (--end_step N ends it)"
    lines = {
        "network": f"{millions:.2f} M parameters, {dataset.image_size} pixels",
        "objective": _objective(flags.diffusion),
        "data": f"{dataset.num_images} images in {checkpoint.absolute(flags.data.data_dir)}",
        "global batch": f"{loop.global_batch} ({dist_util.world_size()} ranks x {loop.batch_size})",
        "devices": dist_util.launch_summary(),
        "gradient": _gradient(train),
        "averages": ", ".join(averages) or "none",
        "steps": until,
        "folder": logger.get_dir(),
    }
    if hasattr(flags, "classifier"):
        del lines["objective"]
    for name, text in lines.items():
        logger.log(f"{name:>13}: {text}")
    if swa and loop.step < loop.end_step < swa.start + swa.window:
        logger.warn(
            f"warning: no window of --swa_window {train.swa_window} ends by step {loop.end_step}: "
            "there will be no swa_ file"
        )


def _objective(diffusion):
    """ "flow, predicts v, noise levels logitnormal p_mean=0.5"."""
    own = {"ddpm": "eps", "flow": "v", "edm": "F"}.get(diffusion.objective.split()[0], "")
    predicts = objectives.predicts_of(vars(diffusion)) or own
    parts = [diffusion.objective, *([f"predicts {predicts}"] if predicts else [])]
    levels = [f"noise levels {diffusion.noise_levels}"] if diffusion.noise_levels else []
    return ", ".join(parts + levels)


def _gradient(train):
    """ "adam-sam with rho 0.1, every 5 steps"; what is not AdamW's steps behind it."""
    gradient = choices.entry(GRADIENTS, train.optimizer)
    climbs = gradient is not GRADIENTS["adam"]
    parts = {
        train.optimizer + (f" with rho {train.rho}" if climbs and gradient.radius else ""): True,
        f"every {train.sam_every} steps": climbs and train.sam_every > 1,
        f"from step {train.sam_start} on": climbs and train.sam_start > 0,
        f"climbing on {train.sam_share:g} of the batch": train.sam_share < 1 < gradient.passes,
        f"steps of {train.base_optimizer}": train.base_optimizer != TrainFlags.base_optimizer,
    }
    return ", ".join(text for text, told in parts.items() if told)
