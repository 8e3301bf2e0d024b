"""Precision and recall of samples (Kynkaanniemi et al. 2019), in blocks: memory does not grow.

Around each point of a set lies the ball that reaches its 3rd nearest neighbour in the same set.
precision: share of the samples that lie in a ball of the reference; recall: the other way round.
"""

import torch
from torch import Tensor

from .features import silent

NEIGHBOURS = 3
BLOCK = 5000  # rows and columns of the distances held at once: 100 MB each time


def precision_recall(
    reference: Tensor, samples: Tensor, *, neighbours: int = NEIGHBOURS, progress=silent
) -> tuple[float, float]:
    """Features [N, D] and [M, D], more than `neighbours` each -> (precision, recall)."""
    center = reference.mean(0)  # near the origin, squares lose fewer digits
    reference, samples = (reference - center).split(BLOCK), (samples - center).split(BLOCK)
    around_reference = _radii(reference, neighbours, progress)
    around_samples = _radii(samples, neighbours, progress)
    is_precise = [torch.zeros(len(y), dtype=torch.bool, device=y.device) for y in samples]
    is_recalled = [torch.zeros(len(x), dtype=torch.bool, device=x.device) for x in reference]
    for i, x in enumerate(progress(reference, "precision and recall", leave=False)):
        for j, y in enumerate(samples):
            distances = squared_distances(x, y)
            is_precise[j] |= (distances <= around_reference[i][:, None]).any(0)
            is_recalled[i] |= (distances <= around_samples[j]).any(1)
    return _share(is_precise), _share(is_recalled)


def _radii(blocks, neighbours, progress):
    """Squared distance from each point to its `neighbours`-th nearest other, block by block."""
    radii = []
    for i, x in enumerate(progress(blocks, "neighbours", leave=False)):
        nearest = x.new_full((len(x), neighbours), torch.inf)
        for j, y in enumerate(blocks):
            distances = squared_distances(x, y)
            if i == j:
                distances.fill_diagonal_(torch.inf)  # a point is not its own neighbour
            found = torch.cat([nearest, distances], dim=1)
            nearest = found.topk(neighbours, dim=1, largest=False).values
        radii.append(nearest[:, -1])
    return radii


def squared_distances(x, y):
    distances = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return distances.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)


def _share(flags):
    return float(torch.cat(flags).double().mean())
