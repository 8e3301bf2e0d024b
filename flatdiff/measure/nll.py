"""The variational bound of images in bits per dimension, an upper bound of -log2 p per number.

Image k is the k-th of an order drawn by the seed, and its noise a function of (seed, k): batches
and ranks change nothing but rounding. Images are centre crops, never mirrored.
"""

import os

import numpy as np
import torch
from torch import Tensor

from ..bars import Bar
from ..chain.gaussian_diffusion import GaussianDiffusion
from ..data.image_datasets import to_float
from ..models.generate import PIXELS_AT_ONCE, ImageNoise
from ..rng import BOUND, generator
from ..store import checkpoint, disk, finite
from ..world import dist_util, logger, stopping
from ..world.arithmetic import arithmetic
from .kept import refuse_to_replace
from .run import settings

FILES = {"vb": "vb_terms", "mse": "mse_terms", "xstart_mse": "xstart_mse_terms"}
RECORD = "nll.json"


def check(diffusion) -> None:
    """Raise ValueError for a chain that has no such bound."""
    if not isinstance(diffusion, GaussianDiffusion):
        diffusion.calc_bpd_loop()


@arithmetic(tf32=False)
def evaluate(
    model, diffusion, dataset, *, num_samples, batch_size, clip_denoised, seed, autocast
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (total bits per dimension of each image [N], mean terms by name, each [T]).

    N is num_samples, or all images if there are fewer: one that came again would be no new one. On
    every rank the same. Terms are in calc_bpd_loop's order: from timestep T-1 down to 0.
    `batch_size`: images per rank at once, of which a network call has as many timesteps as fit;
    `autocast` opens the network's arithmetic.
    """
    device = dist_util.dev()
    order = torch.randperm(dataset.num_images, generator=generator(seed, BOUND))
    rows = order.numpy()[:num_samples]
    if (count := len(rows)) < num_samples:
        there = f"warning: there are {count} images, and num_samples is {num_samples}"
        logger.warn(f"{there}: each is measured once")
    total = torch.zeros(count, dtype=torch.float64)
    sums = torch.zeros(len(FILES), diffusion.num_timesteps, dtype=torch.float64)
    stopping.keeps("nothing of it is kept, and the same command begins anew")
    batches = torch.arange(count).split(batch_size)
    place, done = (dist_util.rank(), dist_util.world_size()), 0
    with Bar(total=count, desc="bits per dimension", unit="image") as bar:
        for indices in bar.turns(batches, *place):
            chosen = rows[indices.numpy()]
            images = to_float(np.stack([dataset.image(row) for row in chosen])).to(device)
            cond = {}
            if dataset.labels is not None:
                cond["y"] = torch.from_numpy(dataset.labels[chosen]).to(device)
            randn = ImageNoise(seed, indices.tolist(), device)
            with autocast():
                how = {"randn": randn, "at_once": max(1, PIXELS_AT_ONCE // images[:, 0].numel())}
                terms = diffusion.calc_bpd_loop(model, images, clip_denoised, cond, **how)
            total[indices] = terms["total_bpd"].double().cpu()
            sums += torch.stack([terms[name].double().sum(dim=0) for name in FILES]).cpu()
            done += len(indices)
            bar.set_postfix(bpd=f"{total.sum() / done:.4g}")
    means = dist_util.all_reduce_sum(sums) / count
    return dist_util.all_reduce_sum(total), dict(zip(FILES, means))


def begun(flags, folder):
    """The record of what is to be measured; ValueError where the folder has one of another."""
    path = checkpoint.absolute(flags.nll.model_path)
    record = {"settings": settings(flags), "models": [{"path": path}]}
    if dist_util.rank() == 0:
        record["models"][0]["sha256"] = checkpoint.sha256(path)
        refuse_to_replace(os.path.join(folder, RECORD), record["settings"], [path])
    return record


def report(total, terms, folder, record):
    """Log the bound with its standard error over images; write guided-diffusion's three files, and
    the record of what they are of."""
    finite.check(terms | {"total": total}, "bits per dimension")
    count = len(total)
    error = "(of one image, so there is no error over images)"
    if count > 1:
        error = f"+- {total.std() / count**0.5:.5f} (standard error over {count} images)"
    logger.log(f"bits per dimension: {total.mean():.5f} {error}")
    if dist_util.rank() == 0:
        for name, values in terms.items():
            path = os.path.join(folder, f"{FILES[name]}.npz")
            with disk.writing(path) as file:
                np.savez(file, values.float().numpy())
            logger.log(path)
        bits = {"bits_per_dimension": total.mean().item(), "num_images": count}
        checkpoint.save_json(record | bits, os.path.join(folder, RECORD))
