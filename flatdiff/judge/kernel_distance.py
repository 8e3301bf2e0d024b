"""Kernel distance of two sets of features: KID for Inception's.

The squared maximum mean discrepancy under the kernel (x . y / D + 1)^3, unbiased for any number of
samples (Binkowski et al. 2018, "Demystifying MMD GANs"); so it may come out below 0.
"""

import numpy as np
import torch
from torch import Tensor

from . import jackknife

NUM_SUBSETS = 100
LARGEST_SUBSET = 1000
LARGEST = 5000  # images of a set that its error is computed from


def kernel_distance(reference: Tensor, samples: Tensor, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over 100 random subsets of 1000 (or half of a smaller set).

    Features [N, D] and [M, D], at least 4 each. The deviation is that of a single subset, and no
    error of the mean: that is `error`.
    """
    jackknife.check_widths(reference, samples)
    rng = np.random.default_rng(seed)
    size = min(LARGEST_SUBSET, len(reference) // 2, len(samples) // 2)
    values = [
        discrepancy(_subset(reference, size, rng), _subset(samples, size, rng))
        for _ in range(NUM_SUBSETS)
    ]
    return float(np.mean(values)), float(np.std(values))


def error(of_groups: list[float], deviation: float) -> float:
    """The standard error of `kernel_distance`, of `left_out` over images and by the deviation of
    its subsets; the reference is held fixed."""
    return float(np.hypot(jackknife.error(of_groups), deviation / NUM_SUBSETS**0.5))


def left_out(reference: Tensor, samples: Tensor, seed: int = 0) -> list[float]:
    """The unbiased estimate from all images, without each group of the samples (`jackknife`): [10],
    none for fewer than 20. Of sets of more than 5000 they are of so many, and differ as of all."""
    jackknife.check_widths(reference, samples)
    if len(samples) < jackknife.SMALLEST:
        return []
    order = torch.cat(jackknife.groups(len(samples), seed))[:LARGEST].to(samples.device)
    x = reference[torch.cat(jackknife.groups(len(reference), seed))[:LARGEST].to(samples.device)]
    groups = [rows.double() for rows in samples[order].tensor_split(jackknife.NUM_GROUPS)]
    x = x.double()
    to_x = torch.stack([_kernel(y, x).sum() for y in groups])
    own = [_kernel(y, y) for y in groups]
    own = torch.stack([kernel.sum() - kernel.trace() for kernel in own])
    pairs = torch.stack([torch.stack([_kernel(a, b).sum() for b in groups]) for a in groups])
    pairs = pairs.fill_diagonal_(0)
    n = len(order) - torch.tensor([len(y) for y in groups]).to(to_x)  # without each group
    among = own.sum() - own + pairs.sum() - 2 * pairs.sum(1)
    found = among / (n * (n - 1)) - 2 * (to_x.sum() - to_x) / (n * len(x))
    found = found + _mean_off_diagonal(_kernel(x, x))
    scale = (len(order) / len(samples)) ** 0.5
    return (found.mean() + scale * (found - found.mean())).tolist()


def discrepancy(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate from all of x [n, D] and y [m, D]."""
    x, y = x.double(), y.double()
    within = _mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y))
    return float(within - 2 * _kernel(x, y).mean())


def _subset(features, size, rng):
    chosen = torch.from_numpy(rng.choice(len(features), size, replace=False))
    return features[chosen.to(features.device)]


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_off_diagonal(matrix):
    number = len(matrix)
    return (matrix.sum() - matrix.trace()) / (number * (number - 1))
