"""Sliced Wasserstein distance of two sets of features: for few images, and of no assumed shape.

    D times the mean, over unit directions u in D dimensions, of W_2^2(u . x, u . y)

Bonneel et al. 2015 (equation 6). D makes it the Frechet distance of sets that differ by a shift
alone. The directions are fixed, and rows of orthogonal matrices, which is exact for a shift. The
distance of N to M images is too large by about a / N + b / M; twice it less the mean over halves of
both has no such term, so two sets of one distribution get 0 on average, and may fall below it.
"""

import math

import torch
from torch import Tensor

from . import jackknife

NUM_DIRECTIONS = 256
LARGEST = 10_000  # images of a set; of more, so many at random
AT_ONCE = 32  # directions whose projections are held


def sliced_distance(reference: Tensor, samples: Tensor, seed: int = 0) -> dict:
    """Features [N, D], [M, D], at least 4 each -> {value, error, plain, left_out}.

    plain: not debiased. error, left_out [10]: by the jackknife over samples; nan and empty for
    fewer than 20. seed: of the groups and the halves; the directions are always the same.
    """
    jackknife.check_widths(reference, samples)
    reference = reference[torch.cat(jackknife.groups(len(reference), seed))[:LARGEST]]
    samples = samples[torch.cat(jackknife.groups(len(samples), seed))[:LARGEST]]
    with_groups = len(samples) >= jackknife.SMALLEST
    parts = directions(samples.shape[1], NUM_DIRECTIONS).to(samples).split(AT_ONCE)
    found = [_of_directions(part @ reference.T, part @ samples.T, with_groups) for part in parts]
    factor = samples.shape[1] / NUM_DIRECTIONS
    plain, value, *left_out = (factor * torch.stack(found).sum(0)).tolist()
    told = {"value": value, "error": jackknife.error(left_out)}
    return told | {"plain": plain, "left_out": left_out}


def directions(dim: int, number: int) -> Tensor:
    """Unit vectors [number, dim], orthogonal to each other as far as there is room for that."""
    draw = torch.Generator().manual_seed(0)
    bases = [
        torch.linalg.qr(torch.randn(dim, dim, generator=draw, dtype=torch.float64))[0]
        for _ in range(math.ceil(number / dim))
    ]
    return torch.cat(bases)[:number]


def squared_wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """W_2^2 of the rows of x [L, N] and y [L, M], each ascending: [L], exact for any N and M.

    It is the integral over q in (0, 1) of the squared difference of the quantile functions.
    """
    n, m = x.shape[1], y.shape[1]
    if n == m:
        return (x - y).square().mean(1)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m) * n]).unique()  # of n m
    shares = torch.diff(ends, prepend=ends.new_zeros(1)).to(x) / (n * m)
    at_x, at_y = ((ends - 1).div(size, rounding_mode="floor").to(x.device) for size in (m, n))
    return (x[:, at_x] - y[:, at_y]).square() @ shares


def _of_directions(x: Tensor, y: Tensor, with_groups: bool) -> Tensor:
    """Sums over directions, of shuffled projections [L, N], [L, M]: the plain distance, the
    debiased one, and that without each group of y; float64 [2 or 12]."""
    (x, order_x), (y, order_y) = x.sort(), y.sort()
    half_x = order_x < x.shape[1] // 2
    bounds = torch.arange(y.shape[1]).tensor_split(jackknife.NUM_GROUPS)
    middle = bounds[jackknife.NUM_GROUPS // 2][0]

    def without(start: int, stop: int) -> Tensor:
        kept = (order_y < start) | (order_y >= stop)
        whole = squared_wasserstein(x, _rows(y, kept)).sum()
        pairs = (half_x, order_y < middle), (~half_x, order_y >= middle)
        of_halves = [squared_wasserstein(_rows(x, a), _rows(y, b & kept)).sum() for a, b in pairs]
        return torch.stack([whole, 2 * whole - sum(of_halves) / 2]).double()

    ends = [(int(b[0]), int(b[-1]) + 1) for b in bounds] if with_groups else []
    return torch.cat([without(0, 0), *(without(*end)[1:] for end in ends)])


def _rows(values: Tensor, kept: Tensor) -> Tensor:
    """The kept of each row, as many in all rows."""
    return values[kept].view(len(values), -1)
