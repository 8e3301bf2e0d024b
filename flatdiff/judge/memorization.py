"""Whether samples lie nearer to training images than images do that nobody trained on.

Meehan, Chaudhuri & Dasgupta 2020, "A three-sample test to detect data-copying": L(x) is the
distance from x to its nearest training image, here between features. With as many held-out images
of the same source, P(L(sample) < L(held-out)) is a half for a model that copies no more than the
data do themselves; above it, samples sit on training images. C_T is their test statistic, a mean
of the z-scores of cells: of one cell about a standard normal then, of several narrower, as
1 / sqrt(cells). Below -3 they call it copying, which is many such deviations.
"""

import math

import numpy as np
import torch
from scipy import stats
from scipy.cluster import vq
from torch import Tensor

from . import jackknife
from .precision_recall import BLOCK, squared_distances

FEWEST = 20  # images of each set, and of a cell
MOST_CELLS = 10
IMAGES_A_CELL = 100  # held-out images


def memorization(train: Tensor, held_out: Tensor, samples: Tensor) -> dict[str, float]:
    """Features [T, D], [N, D], [M, D] -> {share, error, C_T}.

    share: of the pairs of a sample and a held-out image in which the sample is nearer; ties count
    half. error: of the share, over samples and held-out images (DeLong et al. 1988), the training
    images held fixed, and no less than half an image.
    """
    jackknife.check_widths(train, held_out, samples)
    for name, x in (("training", train), ("held-out", held_out), ("sampled", samples)):
        if len(x) < FEWEST:
            raise ValueError(
                f"{len(x)} {name} images; a test for copies needs {FEWEST} or more of each"
            )
    center = train.mean(0)
    train, held_out, samples = (x - center for x in (train, held_out, samples))
    far, near = nearest(held_out, train).numpy(), nearest(samples, train).numpy()
    of_samples, of_held_out = _shares(near, far), 1 - _shares(far, near)
    variance = np.var(of_samples, ddof=1) / len(near) + np.var(of_held_out, ddof=1) / len(far)
    least = 0.5 / min(len(near), len(far))
    error = max(math.sqrt(variance), least)
    statistic = copying(near, far, *_cells(train, held_out, samples))
    return {"share": float(np.mean(of_samples)), "error": error, "C_T": statistic}


def nearest(x: Tensor, train: Tensor) -> Tensor:
    """The distance from each row of x [N, D] to the nearest of train [T, D]: [N], on the CPU."""
    blocks = train.split(BLOCK)
    found = [
        torch.stack([squared_distances(rows, block).amin(1) for block in blocks]).amin(0)
        for rows in x.split(BLOCK)
    ]
    return torch.cat(found).sqrt().cpu()


def copying(near: np.ndarray, far: np.ndarray, of_near: np.ndarray, of_far: np.ndarray) -> float:
    """C_T (Meehan et al. 2020, section 4): the mean over cells, weighted by held-out images, of the
    z-scores of Mann and Whitney's U, negative where samples are nearer.

    near, of_near [M]: distances and cells of samples; far, of_far [N]: of held-out images. Cells
    with fewer than 20 of either are left out.
    """
    total, weights = 0.0, 0
    for cell in np.unique(of_far):
        q, p = near[of_near == cell], far[of_far == cell]
        m, n = len(q), len(p)
        if min(m, n) >= FEWEST:
            u = stats.mannwhitneyu(q, p).statistic
            total += n * (u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)
            weights += n
    return float(total / weights) if weights else math.nan


def _shares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each x, the share of y that is greater; ties count half."""
    y = np.sort(y)
    left, right = (np.searchsorted(y, x, side) for side in ("left", "right"))
    return 1 - (left + right) / (2 * len(y))


def _cells(train: Tensor, held_out: Tensor, samples: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The cells of samples and of held-out images, by k-means of the training images."""
    number = min(MOST_CELLS, max(1, len(held_out) // IMAGES_A_CELL))
    rows = train[torch.cat(jackknife.groups(len(train)))[:BLOCK].to(train.device)].cpu().double()
    middles, _ = vq.kmeans2(rows.numpy(), number, seed=0, minit="++")
    return tuple(vq.vq(x.cpu().double().numpy(), middles)[0] for x in (samples, held_out))
