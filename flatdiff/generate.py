"""Images by index -> npz. Image i is a function of (seed, i), whatever the batches and ranks.

Finished batches are kept on disk as parts, so that 50,000 images need little memory and a killed
run goes on; the parts are joined at the end.
"""

import dataclasses
import json
import os
import shutil
import zipfile

import numpy as np
import torch
from tqdm import tqdm

from . import checkpoint, disk, dist_util, logger, script_util
from .image_datasets import save_grid, to_uint8
from .rng import LABEL, SAMPLE, generator, seed_of

KEY_GROUPS = ("sample", "diffusion", "quant", "guidance", "base")
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


def sample_images(
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
    """The images of these indices: uint8 [N, H, W, 3] on the CPU.

    `shape`: (3, H, W). `labels`: int64 [N] for a class-conditional network, or None. `cond_fn`:
    guidance, as in `samplers`. `model_kwargs`: tensors [N, ...] for the network and cond_fn.
    """
    device = dist_util.dev()
    noise = ImageNoise(seed, indices, device)
    loop = {
        "ddpm": diffusion.p_sample_loop,
        "ddim": diffusion.ddim_sample_loop,
        "dpmpp": diffusion.dpmpp_sample_loop,
    }[sampler]
    if labels is not None:
        model_kwargs["y"] = labels
    x = loop(
        model,
        (len(indices), *shape),
        noise=noise(torch.empty(len(indices), *shape, device=device)),
        clip_denoised=clip_denoised,
        cond_fn=cond_fn,
        model_kwargs={name: value.to(device) for name, value in model_kwargs.items()},
        device=device,
        randn=noise,
    )
    return to_uint8(x).cpu().numpy()


def draw_labels(indices, seed, num_classes, wanted=()):
    """The class of each image, int64 [N]: `wanted` in turn, or at random, a function of index."""
    bad = [y for y in wanted if not 0 <= y < num_classes]
    if bad:
        raise ValueError(f"class_labels {bad} are not in 0..{num_classes - 1}")
    if wanted:
        return torch.tensor([wanted[i % len(wanted)] for i in indices])
    return torch.tensor([seed_of(seed, LABEL, i) % num_classes for i in indices])


def labels_of(flags, num_classes):
    """A function of image indices that gives their labels, by --class_labels; None: no classes."""
    wanted = _class_labels(flags.sample.class_labels)
    if num_classes is None and wanted:
        raise ValueError("--class_labels was given, but the network is not class-conditional")
    if num_classes is None:
        return lambda indices: None
    return lambda indices: draw_labels(indices, flags.run.seed, num_classes, wanted)


def sampler(model, diffusion, flags, labels=None, conditions=lambda indices: {}, guide=None):
    """A function of image indices, as `generate` wants it, by the flags.

    `labels`, `conditions`: functions of indices that give labels [N] or None, as `labels_of`, and
    other tensors [N, ...] that the network is called with, by name. `guide`: labels -> cond_fn.
    """
    labels = labels or labels_of(flags, model.num_classes)
    size = model.image_size
    autocast = script_util.autocast(flags, dist_util.dev())

    def sample(indices):
        classes = labels(indices)
        with autocast():
            images = sample_images(
                model,
                diffusion,
                indices,
                (3, size, size),
                seed=flags.run.seed,
                sampler="ddim" if flags.sample.use_ddim else flags.sample.sampler,
                labels=None if model.num_classes is None else classes,
                clip_denoised=flags.sample.clip_denoised,
                cond_fn=guide and guide(classes),
                **conditions(indices),
            )
        return images, classes

    return sample


def key(flags, *files):
    """What the images of these flags depend on, as text: the sampler, its checkpoints and files."""
    groups = [v for k, v in vars(flags).items() if k in KEY_GROUPS]
    values = {k: v for group in groups for k, v in dataclasses.asdict(group).items()}
    for name in ("batch_size", "num_samples", "num_images", "save_quantized"):
        values.pop(name, None)
    stamps = [checkpoint.stamp(path) for path in (flags.sample.model_path, *files)]
    values |= {"seed": flags.run.seed, "dtype": flags.run.dtype, "files": stamps}
    return json.dumps(values, sort_keys=True)


def _class_labels(text):
    try:
        return [int(y) for y in text.split(",") if y]
    except ValueError:
        raise ValueError(
            f"--class_labels {text!r}: expected labels separated by commas, as 0,3,5"
        ) from None


def save_samples(sample, flags, folder, *files, suffix=""):
    """`generate` by the flags; `files`: what the images depend on, beside the checkpoint."""
    amount = flags.sample.num_samples, flags.sample.batch_size
    path = generate(sample, *amount, folder, key=key(flags, *files), suffix=suffix)
    logger.log(f"sampling complete: {path}")


def generate(sample, num_samples, batch_size, folder, key, suffix=""):
    """Make images 0 .. num_samples-1 over all ranks; returns the path of the npz (on rank 0).

    `sample`: list of indices -> (uint8 [n, H, W, 3], int64 [n] or None). `key`: text that names
    everything that the images depend on; parts of an earlier run with the same key are used.
    `suffix`: of the file's name.
    """
    parts = os.path.join(folder, f"samples_parts_{seed_of(*key.encode()) % 16**8:08x}")
    os.makedirs(parts, exist_ok=True)
    done = dist_util.broadcast_object(_done(parts))
    todo = [i for i in range(num_samples) if i not in done]
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    mine = batches[dist_util.rank() :: dist_util.world_size()]
    if done:
        logger.log(f"going on: {num_samples - len(todo)} images are in {os.path.abspath(parts)}")
    with tqdm(total=sum(map(len, mine)), unit="image", disable=dist_util.rank() > 0) as bar:
        for indices in mine:
            images, labels = sample(indices)
            _save_part(parts, indices, images, labels)
            bar.update(len(indices))
    dist_util.barrier()
    if dist_util.rank() > 0:
        return None
    path = _join(parts, num_samples, folder, suffix)
    shutil.rmtree(parts)
    return path


def _save_part(parts, indices, images, labels):
    content = {"indices": np.array(indices), "images": np.asarray(images)}
    if labels is not None:
        content["labels"] = np.asarray(labels)
    path = os.path.join(parts, f"{indices[0]:08d}_{len(indices)}")
    with disk.writing(f"{path}.npz") as file:
        np.savez(file, **content)


def _done(parts):
    """Image index -> the part that holds it."""
    where = {}
    for name in sorted(os.listdir(parts)):
        if name.endswith(".npz"):
            path = os.path.join(parts, name)
            with disk.reading(path), np.load(path) as part:
                where.update((int(i), (name, row)) for row, i in enumerate(part["indices"]))
    return where


def _join(parts, num_samples, folder, suffix):
    """Parts -> samples_NxHxWx3{suffix}.npz by index, with one part in memory at a time."""
    where = _done(parts)
    opened = {}

    def rows(field):
        for i in range(num_samples):
            name, row = where[i]
            if name not in opened:
                if len(opened) > 16:
                    opened.clear()
                path = os.path.join(parts, name)
                with disk.reading(path), np.load(path) as part:
                    opened[name] = dict(part)
            yield opened[name].get(field, (None,) * (row + 1))[row]

    first = next(rows("images"))
    shape = (num_samples, *first.shape)
    path = os.path.join(folder, f"samples_{'x'.join(map(str, shape))}{suffix}.npz")
    with disk.writing(path) as whole, zipfile.ZipFile(whole, "w") as archive:
        _write(archive, "arr_0", shape, np.uint8, rows("images"))
        if next(rows("labels")) is not None:
            _write(archive, "arr_1", shape[:1], np.int64, rows("labels"))
    grid = [image for image, _ in zip(rows("images"), range(min(num_samples, 64)))]
    save_grid(np.stack(grid), path.removesuffix(".npz") + ".png")
    return os.path.abspath(path)


def _write(archive, name, shape, dtype, rows):
    """One array of an npz, row by row."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            file.write(np.asarray(row, dtype).tobytes())
