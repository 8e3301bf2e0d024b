"""What a training logs: the terms of its loss, their means over quarters of the timesteps too; how
far it rises to SAM's ridge; and what the run takes of time and memory."""

import datetime
import time

import torch

from ..world import allocator, logger


def log_terms(terms, t, num_timesteps, prefix=""):
    """Means of per-image terms [N], over all images and over each quarter of the timesteps t [N].

    Every rank logs all names, also of a quarter that it has no image in.
    """
    quartile = 4 * t // num_timesteps
    for key, values in terms.items():
        logger.logkv_mean(f"{prefix}{key}", values.mean(), len(values))
        for q in range(4):
            part = values[quartile == q]
            mean = part.mean() if len(part) else 0.0
            logger.logkv_mean(f"{prefix}{key}_q{q}", mean, len(part))


def log_rises(rises):
    """The mean of SAM's sharpness, of tensors [N] of each step, as "sam_sharpness"; without those
    of a step that overflowed. All ranks have as many."""
    if rises:
        every = torch.cat(rises)
        finite = every.isfinite()
        mean = every.where(finite, 0.0).sum() / finite.sum()
        logger.logkv_mean("sam_sharpness", mean, finite.sum())


def log_use(begun, rate, device):
    """The time of day; the seconds since time.monotonic() was `begun`; images a second of all
    ranks, `rate`, or None; the most memory so far, in GiB, of this rank's GPU or process."""
    logger.logkv("time", datetime.datetime.now().isoformat(" ", "seconds"))
    logger.logkv("seconds", round(time.monotonic() - begun, 1))
    logger.logkv("memory_gib", round(allocator.peak(device) / 2**30, 3))
    if rate:
        logger.logkv("images/s", float(f"{rate:.4g}"))


def log_loss_dict(diffusion, ts, losses):
    """guided-diffusion's name for log_terms."""
    log_terms({k: v.detach() for k, v in losses.items()}, ts, diffusion.num_timesteps)
