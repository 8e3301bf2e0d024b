"""Kernel distance of two sets of features: KID for Inception's.

The squared maximum mean discrepancy under the kernel (x . y / D + 1)^3, unbiased for any number of
samples (Binkowski et al. 2018, "Demystifying MMD GANs"); so it may come out below 0.
"""

import numpy as np
import torch
from torch import Tensor

NUM_SUBSETS = 100
LARGEST_SUBSET = 1000


def kernel_distance(reference: Tensor, samples: Tensor, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over 100 random subsets of 1000 (or half of a smaller set).

    Features [N, D] and [M, D], at least 4 each. The deviation is that of a single subset.
    """
    rng = np.random.default_rng(seed)
    size = min(LARGEST_SUBSET, len(reference) // 2, len(samples) // 2)
    values = [
        discrepancy(_subset(reference, size, rng), _subset(samples, size, rng))
        for _ in range(NUM_SUBSETS)
    ]
    return float(np.mean(values)), float(np.std(values))


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
