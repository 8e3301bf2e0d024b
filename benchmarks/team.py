"""The contenders of one config, in their processes, and the check that they compute the same.

They start when they are first asked for, from one file of weights and one of images.
"""

import contextlib
import dataclasses
import functools
import math
import os

import configs
import numpy as np
import peers
import timing
import torch
from workers import Worker

LIMIT = 1e-4  # of the relative deviation of outputs and losses, in fp32


class Disagreement(Exception):
    """Two contenders do not compute the same, so their times do not compare."""


class Team:
    """`team["diffusers"]` is a Worker; `team.checked(...)` those that agree with ours."""

    def __init__(self, config: configs.Config, folder: str, device: str = "cpu"):
        self.config, self.device = config, device
        self.folder = os.path.join(folder, config.name)
        self.job = peers.Job(config, self.folder, device)
        self.workers, self.agreed = {}, set()
        os.makedirs(self.folder)
        write_weights(self.job)
        write_images(self.job)

    def __getitem__(self, name: str) -> Worker:
        return self.get(name)

    def get(self, name: str, kind: str = "", more: str = "") -> Worker:
        """The contender `name`, which is a `kind` (by default `name`) with more flags."""
        if name not in self.workers:
            job = dataclasses.replace(self.job, more=more)
            self.workers[name] = Worker(kind or name, job)
        return self.workers[name]

    def fresh(self, kind: str, more: str = "") -> Worker:
        """A process that has done nothing yet, for the caller to close."""
        return Worker(kind, dataclasses.replace(self.job, more=more))

    def has(self, kind: str) -> bool:
        """Whether that peer is installed, and can express this network."""
        if not peers.installed(kind):
            return False
        if kind != "diffusers":
            return True
        with contextlib.suppress(ValueError):
            return bool(peers.unet_config(self.job.flags()))
        return False

    @functools.cached_property
    def flops(self) -> dict:
        return self["flatdiff"].call("flops")

    def check(self, name: str, limit: float = LIMIT, reference: str = "flatdiff") -> None:
        """Disagreement unless outputs, losses and gradient are the reference's, which has not been
        trained yet."""
        if name in self.agreed:
            return
        self.compare(reference, name, limit)
        x, noise, t = _draws(self.job)
        ours, theirs = (self[who].call("losses", x, t, noise) for who in (reference, name))
        agree(f"{name}: losses", theirs[0], ours[0], limit)
        agree(f"{name}: norm of the gradient", theirs[1], ours[1], limit)
        self.agreed.add(name)

    def compare(self, reference: str, name: str, limit: float) -> float:
        """The deviation of the outputs of two contenders; Disagreement above the limit."""
        x, _, t = _draws(self.job)
        output, expected = (self[who].call("forward", x, t) for who in (name, reference))
        return agree(f"{name}: output", output, expected, limit)

    def interleave(self, calls: dict, warmup: int = 1) -> dict[str, list[float]]:
        """Seconds of (worker's name, method, arguments ...), turn by turn; names as in `calls`."""
        functions = {
            name: functools.partial(self[who].seconds, *what)
            for name, (who, *what) in calls.items()
        }
        return timing.interleave(functions, self.config.repeats, warmup)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.workers = {}


def agree(what: str, value, reference, limit: float = LIMIT) -> float:
    """The relative deviation, in l2; Disagreement names one above the limit."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    deviation = np.linalg.norm(value - reference) / np.linalg.norm(reference)
    if not deviation <= limit:
        raise Disagreement(f"{what} is {deviation:.2e} off, more than {limit:.2g}")
    return deviation


def write_weights(job) -> None:
    """Random weights everywhere: layers that start as zeros would hide what comes before them."""
    from flatdiff.models import networks

    flags = job.flags()
    torch.manual_seed(0)
    model, _ = networks.build(flags.model, flags.diffusion)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.copy_(torch.randn(weight.shape) / math.sqrt(max(weight[0].numel(), 64)))
    torch.save(model.state_dict(), job.weights)


def write_images(job, count: int = 256) -> None:
    size = job.flags().model.image_size
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    np.savez(os.path.join(job.folder, "images.npz"), arr_0=images)


def _draws(job):
    """x_start (also taken as x_t), noise and t of the check, a batch: compiled once for all."""
    size, batch = job.flags().model.image_size, job.config.batch
    rng = np.random.default_rng(1)
    x, noise = rng.standard_normal((2, batch, 3, size, size), dtype=np.float32)
    return x.clip(-1, 1), noise, np.linspace(0, 999, batch).astype(np.int64)
