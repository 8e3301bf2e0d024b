"""Where to look for a picture of the loss: a plane through the weights, a line between two nets.

Directions are random and rescaled filter by filter to the length of the weights (Li et al. 2018),
so that 1 means "as large as the weights themselves" in every network. Knows tensors only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..weights import perturb


def directions(weights: Sequence[Tensor], seed: int) -> list[list[Tensor]]:
    """Two filter-normalized directions, each shaped as the weights.

    The same noise for all networks of one shape; each rescales it to its own filters.
    """
    return [
        [z.clone() for z in perturb.noise(weights, seed, draw, filterwise=True)]
        for draw in range(2)
    ]


def plane(directions: Sequence[Sequence[Tensor]], a: float, b: float) -> perturb.Perturbation:
    """w' = w + a d1 + b d2."""

    def move(weights: list[Tensor]) -> None:
        for direction, scale in zip(directions, (a, b), strict=True):
            perturb.along(direction, scale)(weights)

    return move


def between(others: Sequence[Tensor], alpha: float) -> perturb.Perturbation:
    """w' = (1 - alpha) w + alpha others: at 0 the weights, at 1 the others, both exactly."""
    return lambda weights: torch._foreach_lerp_(weights, list(others), alpha)
