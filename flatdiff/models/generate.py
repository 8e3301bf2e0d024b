"""Images by index -> npz. Image i is a function of (seed, i), whatever the batches and ranks.

Finished batches are kept on disk as parts, so that 50,000 images need little memory and a killed
run goes on; the parts are joined at the end.
"""

import json
import os
import shutil

import numpy as np
import torch

from ..bars import Bar
from ..chain.samplers import begun, last, walk
from ..data import classes
from ..data.image_datasets import to_uint8
from ..data.image_files import save_grid
from ..flags import choices, keys, parse
from ..judge import arrays, settings
from ..rng import LABEL, SAMPLE, generator, seed_of
from ..store import checkpoint, disk, finite, npz
from ..world import dist_util, logger, stopping
from ..world.arithmetic import arithmetic
from . import guidance, networks, sample_records

PIXELS_AT_ONCE = 256 * 32**2  # of a batch on a GPU
STEPS_AT_ONCE = 8  # so that a batch on a GPU does not launch one small kernel an image and step


class ImageNoise:
    """Standard normal noise for a batch, row k from the generator of image `indices[k]`.

    Called as torch.randn_like: x [N, 3, H, W] -> noise [N, 3, H, W].
    """

    def __init__(self, seed, indices, device):
        self.generators = [generator(seed, SAMPLE, i, device=device) for i in indices]
        self.ready = []

    def __call__(self, x):
        if not self.ready:
            size = (STEPS_AT_ONCE, *x.shape[1:])
            rows = [torch.randn(size, generator=g, device=x.device) for g in self.generators]
            self.ready = list(torch.stack(rows, dim=1))
        return self.ready.pop(0)


def step_of(sampler):
    """(step, knobs) of a text as "ddim eta=0.5"; what has a flag of its own is no knob."""
    return choices.chosen(choices.SAMPLERS, sampler, given=("clip_denoised",))


def sampler_of(flags):
    """The sampler of a SampleFlags, --use_ddim counted; ValueError where they contradict."""
    text = flags.sample.sampler
    if not flags.sample.use_ddim or choices.named(choices.SAMPLERS, text)[0] == "ddim":
        return text
    if "sampler" in flags.given:
        raise ValueError(f"--use_ddim True is --sampler ddim, and contradicts --sampler {text}")
    return "ddim"


def check(flags):
    """ValueError for flags of a sampling that make no sense, or do not go with the checkpoint's
    chain."""
    step_of(sampler_of(flags))
    path = flags.sample.model_path
    if path and checkpoint.exists(path):
        networks.chain_of(path, flags, flags.diffusion.timestep_respacing)


def sample_images(model, diffusion, indices, shape, **how):
    """The images of these indices: uint8 [N, H, W, 3] on the CPU; how: as in `walks`."""
    x = last(walks(model, diffusion, indices, shape, **how))
    x = x.cpu()  # the one wait of a batch
    finite.check(x, f"pixels of images {indices[0]} to {indices[-1]}", "The network diverged")
    return to_uint8(x).numpy()


def walks(
    model,
    diffusion,
    indices,
    shape,
    *,
    seed=0,
    sampler="ddpm",
    labels=None,
    clip_denoised=True,
    cond_fn=None,
    **model_kwargs,
):
    """What the sampler gives for images of these indices at t = T-1 .. 0, as `samplers.walk`.

    `shape`: (3, H, W). `labels`: int64 [N] for a class-conditional network, or None. `cond_fn`:
    guidance, as in `samplers`. `model_kwargs`: tensors [N, ...] for the network and cond_fn.
    """
    device = dist_util.dev()
    noise = ImageNoise(seed, indices, device)
    step, knobs = step_of(sampler)
    if labels is not None:
        model_kwargs["y"] = labels
    given = {name: value.to(device) for name, value in model_kwargs.items()}
    x_t = begun(diffusion, noise(torch.empty(len(indices), *shape, device=device)))
    knobs |= {"clip_denoised": clip_denoised, "cond_fn": cond_fn, "model_kwargs": given}
    return walk(diffusion, step, model, x_t.shape, x_t, device=device, randn=noise, **knobs)


def draw_labels(indices, seed, labels):
    """The label of each image, int64 [N], one of `labels` at random: a function of the index."""
    return torch.tensor([labels[seed_of(seed, LABEL, i) % len(labels)] for i in indices])


def labels_of(flags, num_classes, known=()):
    """A function of image indices that gives labels: --class_labels in turn, or at random.

    Those at random occur in training, by `known`, the network's classes. None for a network without
    classes, whose num_classes is None. ValueError for labels that the network has no row for.
    """
    expected = "labels separated by commas, as 0,3,5"
    given = flags.sample.class_labels
    wanted = parse.numbers("class_labels", given, expected, kind=int, empty=True)
    if num_classes is None:
        if wanted:
            raise ValueError("--class_labels was given, but the network is not class-conditional")
        return lambda indices: None
    rows = classes.trained(known, num_classes)
    if bad := [y for y in wanted if not 0 <= y < num_classes]:
        raise ValueError(f"--class_labels {bad} are not in 0..{num_classes - 1}")
    if never := sorted(set(wanted) - set(rows)):
        logger.warn(f"warning: no image of class_labels {never} was in the training")
    if wanted:
        return lambda indices: torch.tensor([wanted[i % len(wanted)] for i in indices])
    if known:
        logger.log(f"labels are drawn from the {len(rows)} of training: {classes.text(known)}")
    return lambda indices: draw_labels(indices, flags.run.seed, rows)


def sampler(model, diffusion, flags, labels=None, conditions=lambda indices: {}, guide=None):
    """A function of image indices, as `generate` wants it, by the flags.

    `labels`, `conditions`: functions of indices that give labels [N] or None, as `labels_of`, and
    other tensors [N, ...] that the network is called with, by name. `guide`: labels -> cond_fn.
    """
    labels = labels or labels_of(flags, model.num_classes, model.classes)
    conditional, shape = model.num_classes is not None, (3, model.image_size, model.image_size)
    autocast = networks.autocast(flags, dist_util.dev())
    how = {"seed": flags.run.seed, "clip_denoised": flags.sample.clip_denoised}
    how["sampler"] = sampler_of(flags)
    model = guidance.guided(model, flags.sample.guidance_scale)

    def sample(indices):
        y = labels(indices)
        given = {"labels": y if conditional else None, "cond_fn": guide and guide(y)}
        with arithmetic(tf32=True, deterministic=flags.run.deterministic), autocast():
            given |= conditions(indices)
            return sample_images(model, diffusion, indices, shape, **how, **given), y

    return sample


def key(flags, *files, **made_of):
    """What the images of these flags depend on, as text: flags, checkpoint, other files, and hashes
    by name of what else they are made of."""
    paths = (flags.sample.model_path, *files)
    return keys.key(flags, "part", files=[checkpoint.identity(path) for path in paths], **made_of)


def batch_size_of(flags, image_size):
    """Images per network call: --batch_size, or if none was given on CUDA as many as fill it, 256
    of side 32 or of as many pixels in all. The images do not depend on it."""
    given = flags.sample.batch_size
    if "batch_size" in flags.given or dist_util.dev().type != "cuda":
        return given
    chosen = max(given, PIXELS_AT_ONCE // image_size**2)
    logger.log(f"images per network call: {chosen} (--batch_size gives another number)")
    return chosen


def save_samples(sample, flags, folder, *files, image_size, steps, suffix="", known=(), **made_of):
    """`generate` by the flags; `files`, `made_of`: what the images depend on beside the checkpoint,
    as `key` has it. `steps`: of the chain."""
    amount = flags.sample.num_samples, batch_size_of(flags, image_size)
    about = sample_records.about(flags, files, sampler_of(flags), steps)
    how = {"key": key(flags, *files, **made_of), "suffix": suffix, "known": known, "about": about}
    path = generate(sample, *amount, folder, **how)
    logger.log(f"sampling complete: {path}")


def generate(sample, num_samples, batch_size, folder, key, suffix="", known=(), about=()):
    """Make images 0 .. num_samples-1 over all ranks; returns the path of the npz (on rank 0).

    `sample`: list of indices -> (uint8 [n, H, W, 3], int64 [n] or None). `key`: JSON that names
    everything that the images depend on; parts of an earlier run with the same key are used.
    `suffix`: of the file's name. `known`: classes whose names go into the file, by label. `about`:
    what else its record says, in the file and beside it.
    ValueError if the folder has such a file of another key.
    """
    if dist_util.rank() == 0:
        sample_records.refuse_to_replace(folder, num_samples, suffix, key)
    parts = os.path.join(folder, f"samples_parts_{seed_of(*key.encode()) % 16**8:08x}")
    os.makedirs(parts, exist_ok=True)
    found = _done(parts) if dist_util.rank() == 0 else ()  # it removes what is damaged
    done = set(dist_util.broadcast_object(sorted(found)))
    todo = [i for i in range(num_samples) if i not in done]
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    place = dist_util.rank(), dist_util.world_size()
    if done:
        logger.log(f"going on: {num_samples - len(todo)} images are in {os.path.abspath(parts)}")
    stays = "images that are finished stay in " + os.path.abspath(parts)
    stopping.keeps(f"{stays}, and the same command goes on from there")
    with Bar(total=len(todo), desc="sampling", unit="image") as bar:
        for indices in bar.turns(batches, *place):
            images, labels = sample(indices)
            _save_part(parts, indices, images, labels)
    dist_util.barrier()
    if dist_util.rank() > 0:
        return None
    path = _join(parts, num_samples, folder, suffix, known, sample_records.made_of(key, about))
    stopping.keeps("")
    shutil.rmtree(parts)
    return path


def _save_part(parts, indices, images, labels):
    content = {"indices": np.array(indices), "images": np.asarray(images)}
    if labels is not None:
        content["labels"] = np.asarray(labels)
    with disk.writing(os.path.join(parts, f"{indices[0]:08d}_{len(indices)}.npz")) as file:
        np.savez(file, **content)


def _done(parts):
    """Image index -> the part that holds it."""
    where = {}
    for name in sorted(os.listdir(parts)):
        if name.endswith(".npz"):
            path = os.path.join(parts, name)
            try:
                part = arrays.read(path)
                if len(part["indices"]) != len(part["images"]):
                    raise ValueError(f"{path} has not an image for each index")
                where.update((int(i), (name, row)) for row, i in enumerate(part["indices"]))
            except (OSError, ValueError, TypeError, KeyError) as error:
                logger.warn(f"warning: the images of {path} are drawn anew: {error}")
                os.remove(path)
    return where


def _join(parts, num_samples, folder, suffix, known, record):
    """Parts -> samples_NxHxWx3{suffix}.npz by index, with one part in memory at a time, and its
    record, in it and beside it."""
    where = _done(parts)
    opened = {}

    def rows(field):
        for i in range(num_samples):
            name, row = where[i]
            if name not in opened:
                if len(opened) > 16:
                    opened.clear()
                path = os.path.join(parts, name)
                opened[name] = arrays.read(path)
            yield opened[name].get(field, (None,) * (row + 1))[row]

    first = next(rows("images"))
    shape = (num_samples, *first.shape)
    path = os.path.join(folder, f"samples_{'x'.join(map(str, shape))}{suffix}.npz")
    written = {"arr_0": (shape, np.uint8, rows("images"))}
    if next(rows("labels")) is not None:
        written["arr_1"] = (shape[:1], np.int64, rows("labels"))
        if known:
            names = classes.array(known)
            written["class_names"] = (names.shape, names.dtype, names)
    record = {"file": os.path.basename(path), **record}
    checkpoint.save_json(record, path.removesuffix(".npz") + ".json")
    npz.write(path, written, **{settings.RECORD: json.dumps(record)})
    grid = [image for image, _ in zip(rows("images"), range(min(num_samples, 64)))]
    save_grid(np.stack(grid), path.removesuffix(".npz") + ".png")
    return os.path.abspath(path)
