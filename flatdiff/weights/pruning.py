"""Weights set to zero: a perturbation, as rounding is."""

import math

import torch
from torch import Tensor

from .perturb import Perturbation


def magnitude(share: float) -> Perturbation:
    """w' = w, but the `share` of smallest magnitude is 0, counted over all weights together.

    That is global magnitude pruning (Han et al. 2015, with one threshold for all layers). Of equal
    magnitudes at the threshold, all are set to zero. share: from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected the share of the weights to prune, 0 to 1")

    def move(weights: list[Tensor]) -> None:
        sizes = torch.cat([w.abs().flatten() for w in weights])
        count = math.floor(share * len(sizes))
        if count:
            threshold = sizes.kthvalue(count).values
            for w in weights:
                w.masked_fill_(w.abs() <= threshold, 0.0)

    return move
