"""What surrounds a run: its folder, its log, its config.json, and the block of lines at its start.

The scripts call these in order and stay tables of contents.
"""

import dataclasses
import datetime
import inspect
import math
import os
import tempfile
from types import SimpleNamespace

from . import checkpoint, dist_util, generate, image_datasets, logger, script_util
from .config import checked, to_dict
from .resample import create_named_schedule_sampler
from .train_util import TrainLoop


def open_log(flags, step=None):
    """One folder for all ranks, made if needed; returns its absolute path.

    What is logged there already stays. With `step`, the first of a training run, tables are kept
    too, without what older runs wrote after that step.
    """
    folder = flags.run.log_dir or os.environ.get("OPENAI_LOGDIR")
    if not folder:
        now = datetime.datetime.now().strftime("flatdiff-%Y-%m-%d-%H-%M-%S-%f")
        folder = os.path.join(tempfile.gettempdir(), now)
    folder = dist_util.broadcast_object(checkpoint.absolute(folder))
    formats = ["stdout", "log"] if step is None else None
    logger.configure(folder, formats, rank=dist_util.rank(), append=True)
    if step is not None:
        logger.truncate(step)
    for name, text in flags.presets.items():
        logger.log(f"--preset {name}: {text}")
    return folder


def start_training(flags):
    """Find what to go on from, open the log, keep config.json; returns the checkpoint or ""."""
    train = flags.train
    folder = flags.run.log_dir or os.environ.get("OPENAI_LOGDIR", "")
    if train.resume not in ("", "auto"):
        raise ValueError(
            f"--resume {train.resume!r}: expected auto (the newest checkpoint of the log folder); "
            "for a file of your choice give --resume_checkpoint FILE"
        )
    newest = checkpoint.find_resume_checkpoint(folder) if folder else None
    path = (train.resume and newest) or train.resume_checkpoint
    if newest and checkpoint.absolute(path) != checkpoint.absolute(newest):
        raise ValueError(
            f"{checkpoint.absolute(folder)} already holds a run ({os.path.basename(newest)}), "
            "whose files would be overwritten. Give --resume auto to go on, or another --log_dir"
        )
    folder = open_log(flags, step=checkpoint.parse_resume_step_from_filename(path))
    if path:
        _refuse_another_network(flags, path)
        logger.log(f"going on from {checkpoint.absolute(path)}")
    elif train.resume:
        logger.log("--resume auto: no checkpoint here yet, starting anew")
    if dist_util.rank() == 0:
        checkpoint.clean(folder)
        checkpoint.save_json(to_dict(flags), os.path.join(folder, checkpoint.CONFIG))
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


def open_dataset(data, image_size, num_classes=None):
    """The images of a DataFlags, with labels for a network of `num_classes`, None: without."""
    class_cond = num_classes is not None
    dataset = image_datasets.ImageDataset(data.data_dir, image_size, class_cond, data.class_from)
    check_classes(dataset, SimpleNamespace(class_cond=class_cond, num_classes=num_classes))
    return dataset


def check_classes(dataset, model_flags):
    """Refuse labels that the network has no row for."""
    if model_flags.class_cond and len(dataset.classes) > model_flags.num_classes:
        raise ValueError(
            f"the data has {len(dataset.classes)} classes ({', '.join(dataset.classes[:5])}, ...), "
            f"the network {model_flags.num_classes}; give --num_classes {len(dataset.classes)}"
        )


def training_loop(
    flags, model, diffusion, dataset, resume_checkpoint, conditions=lambda images: {}, **more
):
    """The TrainLoop of TrainFlags on the dataset.

    `conditions`: images [N, 3, H, W] -> further tensors [N, ...] for the network, by name. `more`:
    arguments of TrainLoop that go before those of the flags.
    """
    script_util.place(model)
    if flags.run.compile:
        script_util.compile_network(model)
    own = batches(flags, dataset, flags.train.random_crop)

    def data(start):
        for images, cond in image_datasets.loader(own, start, flags.data.num_workers):
            yield images, cond | conditions(images)

    sampler = create_named_schedule_sampler(flags.train.schedule_sampler, diffusion)
    arguments = loop_arguments(flags.train) | {
        "use_fp16": flags.model.use_fp16,
        "dtype": flags.run.dtype,
        "seed": flags.run.seed,
        "schedule_sampler": sampler,
        "resume_checkpoint": resume_checkpoint,
    }
    return TrainLoop(model=model, diffusion=diffusion, data=data, **arguments | more)


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
    """The fields of TrainFlags that TrainLoop takes under the same name."""
    known = inspect.signature(TrainLoop).parameters
    return {k: v for k, v in dataclasses.asdict(train).items() if k in known}


def preview(flags, image_size, conditions=None):
    """A function of the network that draws images in at most 100 steps, the same each time.

    It takes the images' indices too, by default the first 64. `conditions`: indices -> tensors
    [N, ...] for the network, by name; default labels, if class_cond.
    """
    steps = min(100, flags.diffusion.diffusion_steps)
    short = dataclasses.replace(flags.diffusion, timestep_respacing=str(steps))
    diffusion = script_util.create_chain(dataclasses.asdict(short))
    shape, seed = (3, image_size, image_size), flags.run.seed

    def labels(indices):
        classes = flags.model.num_classes
        return {"y": generate.draw_labels(indices, seed, classes)} if flags.model.class_cond else {}

    def sample(model, indices=range(64)):
        given = (conditions or labels)(indices)
        return generate.sample_images(model, diffusion, indices, shape, seed=seed, **given)

    return sample


def describe(flags, loop, dataset):
    """The block at the start: what is trained, on what, where, and until when."""
    millions = sum(w.numel() for w in loop.weights) / 1e6
    train = flags.train
    averages = [f"EMA {rate}" for rate in loop.emas]
    if loop.swa:
        averages.append(f"SWA of every {train.swa_window} steps from step {loop.swa_start}")
    if loop.end_step == math.inf:
        until = "trains until stopped (--end_step N ends it)"
    else:
        until = f"from step {loop.step} to step {loop.end_step}"
    lines = {
        "network": f"{millions:.2f} M parameters, {dataset.image_size} pixels",
        "data": f"{dataset.num_images} images in {checkpoint.absolute(flags.data.data_dir)}",
        "global batch": f"{loop.global_batch} ({dist_util.world_size()} ranks x {loop.batch_size})",
        "devices": dist_util.launch_summary(),
        "gradient": _gradient(train),
        "averages": ", ".join(averages) or "none",
        "steps": until,
        "folder": logger.get_dir(),
    }
    for name, text in lines.items():
        logger.log(f"{name:>13}: {text}")
    if loop.swa and loop.step < loop.end_step < loop.swa_start + train.swa_window:
        logger.warn(
            f"warning: no window of --swa_window {train.swa_window} ends by step {loop.end_step}: "
            "there will be no swa_ file"
        )


def _gradient(train):
    """ "adam-sam with rho 0.1, every 5 steps"."""
    if train.optimizer == "adam":
        return "adam"
    parts = [f"{train.optimizer} with rho {train.rho}"]
    if train.sam_every > 1:
        parts.append(f"every {train.sam_every} steps")
    if train.sam_start:
        parts.append(f"from step {train.sam_start} on")
    if train.sam_share < 1 and train.optimizer != "adam-msam":
        parts.append(f"climbing on {train.sam_share:g} of the batch")
    return ", ".join(parts)
