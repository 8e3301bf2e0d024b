"""Frechet distance of two normal distributions, its error bar, and its limit for many samples.

    |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))

Heusel et al. 2017 (FID); Chong & Forsyth 2020, "Effectively unbiased FID": with N samples the
distance is too large by about c / N, so a line in 1/N leads to its limit.
"""

import numpy as np
import torch
from torch import Tensor

from . import jackknife
from .jackknife import NUM_GROUPS

ROWS = 4096  # of features held in float64 at once


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, D], N >= 2 -> mean [D] and unbiased covariance [D, D], float64."""
    shift = features.double().mean(0)
    return _join([_moments(features, shift)], shift)


def frechet_distance(mu_1: Tensor, sigma_1: Tensor, mu_2: Tensor, sigma_2: Tensor) -> float:
    """The distance of two normals, float64 [D] and [D, D], exact for covariances of any rank."""
    return _distance(mu_1, _factor(sigma_1), mu_2, sigma_2)


def distance_with_error(mu: Tensor, sigma: Tensor, features: Tensor, seed: int = 0) -> dict:
    """Distance from the normal (mu, sigma), float64, to samples [N, D]: {value, error, infinity,
    left_out}.

    The samples are shuffled into 10 groups; left_out [10]: the distances without one group each.
    error: the standard error by the jackknife, from the distances without one group each. It is
        the scatter that other samples of the same model would show; the reference is held fixed.
    infinity: where the line in 1/N through the distances of all N and of N/2 samples ends. The
        latter is the mean over two halves: they use every sample as often as the former does, so
        that the line adds little noise to the error. It is too low itself at N < 4 D.
    Both are nan for fewer than 20 samples, and left_out is empty.
    """
    moments, distance = _grouped(mu, sigma, features, NUM_GROUPS, seed)
    value = distance(moments)
    if len(features) < jackknife.SMALLEST:
        none = float("nan")
        return {"value": value, "error": none, "infinity": none, "left_out": []}
    left_out = _without_each(moments, distance)
    middle = NUM_GROUPS // 2
    of_halves = (distance(moments[:middle]) + distance(moments[middle:])) / 2
    found = {"value": value, "error": jackknife.error(left_out)}
    return found | {"infinity": 2 * value - of_halves, "left_out": left_out}


def left_out(
    mu: Tensor, sigma: Tensor, features: Tensor, num_groups: int, seed: int = 0
) -> tuple[float, list[float]]:
    """The distance from the normal (mu, sigma) to samples [N, D], and that without each group.

    The seed deals the rows to the groups: those of two sets of N samples, row by row alike, so that
    a difference of two distances has the jackknife's error too.
    """
    moments, distance = _grouped(mu, sigma, features, num_groups, seed)
    return distance(moments), _without_each(moments, distance)


def _grouped(mu, sigma, features, num_groups, seed):
    """The moments of each group of samples, and the distance of some groups together."""
    shift = features.double().mean(0)
    parts = jackknife.groups(len(features), seed, num_groups)
    moments = [_moments(features[part.to(features.device)], shift) for part in parts]
    factor = _factor(sigma)

    def distance(groups):
        return _distance(mu, factor, *_join(groups, shift))

    return moments, distance


def _without_each(moments, distance):
    return [distance(moments[:i] + moments[i + 1 :]) for i in range(len(moments))]


def floor(features: Tensor, number: int, draws: int = 10, seed: int = 0) -> dict[str, list[float]]:
    """What a perfect copy of the data would get: {values, infinities}, of each draw.

    A draw is `number` of the rows [N, D], with replacement, against the statistics of all N: any
    excess over 0 is that of a finite number. `infinities`: as in `distance_with_error`.
    """
    mu, sigma = statistics(features)
    factor = _factor(sigma)
    rng = np.random.default_rng(seed)
    found = {"values": [], "infinities": []}
    for _ in range(draws):
        rows = features[torch.from_numpy(rng.integers(len(features), size=number))]
        halves = [_moments(half, mu) for half in rows.tensor_split(2)]
        value, *each = (_distance(mu, factor, *_join(of, mu)) for of in (halves, *zip(halves)))
        found["values"].append(value)
        found["infinities"].append(2 * value - sum(each) / 2)
    return found


def _factor(sigma: Tensor) -> Tensor:
    """L with L L^T = sigma."""
    factor, failed = torch.linalg.cholesky_ex(sigma)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(sigma)  # of any rank, and slower
    return vectors * values.clamp(min=0).sqrt()


def _distance(mu_1, factor_1, mu_2, sigma_2):
    """With S_1 = L L^T, S_1 S_2 has the eigenvalues of L^T S_2 L, which is symmetric."""
    roots = torch.linalg.eigvalsh(factor_1.T @ sigma_2 @ factor_1).clamp(min=0).sqrt()
    traces = factor_1.square().sum() + sigma_2.trace()
    distance = (mu_1 - mu_2).square().sum() + traces - 2 * roots.sum()
    return max(float(distance), 0.0)  # rounding can leave less than 0 for equal distributions


def _moments(features: Tensor, shift: Tensor) -> tuple[int, Tensor, Tensor]:
    """Number, sum and sum of outer products of the features less `shift`, which keeps digits."""
    total = torch.zeros_like(shift)
    outer = shift.new_zeros(len(shift), len(shift))
    for rows in features.split(ROWS):
        rows = rows.double() - shift
        total += rows.sum(0)
        outer.addmm_(rows.T, rows)
    return len(features), total, outer


def _join(groups: list[tuple[int, Tensor, Tensor]], shift: Tensor) -> tuple[Tensor, Tensor]:
    number = sum(group[0] for group in groups)
    mean = sum(group[1] for group in groups) / number
    outer = sum(group[2] for group in groups)
    return mean + shift, (outer - number * mean.outer(mean)) / (number - 1)
