"""What a handful of numbers can decide: intervals, power, a permutation test, many claims at once.

Means of paired differences by Student's t. A correlation over models by permuting kinds, as models
of one kind are no independent draws. Knows no studies, only arrays.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from ..judge import power
from ..judge.power import LEVEL, POWER
from ..rng import seed_of

MOST = 10_000  # permutations


class Mean(NamedTuple):
    """What n differences say: their mean, its 95 % interval, the p-value of no effect, and the
    smallest true mean that would be told from 0 in 80 % of repetitions with this n and this
    scatter."""

    value: float
    low: float
    high: float
    p: float
    seen: float


class Correlation(NamedTuple):
    """r over all models; p of no relation between kinds, `least`: the lowest that it can be; seen:
    the r that as many independent kinds would tell from 0 in 80 % (about)."""

    r: float
    p: float
    least: float
    seen: float | None
    kinds: int


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean, by Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))


def mean_of(differences: Sequence[float]) -> Mean:
    """The one-sample t-test of at least two differences."""
    n, value = len(differences), math.fsum(differences) / len(differences)
    error = float(stats.sem(differences))
    if not error:  # all are equal
        return Mean(value, value, value, float(value == 0), 0.0)
    half = half_width(differences)
    p = 2 * float(stats.t.sf(abs(value) / error, n - 1))
    return Mean(value, value - half, value + half, p, seen_in_errors(n) * error)


def seen_in_errors(n: int) -> float:
    """The true mean, in its standard errors, that a two-sided t-test of n values finds in 80 %."""
    return power.in_errors(n - 1)


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's r; None for fewer than four pairs, or where one side does not vary."""
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.pearsonr(x, y).statistic)


def by_kind(x: np.ndarray, y: np.ndarray) -> Correlation | None:
    """Whether x and y [kinds, ...], of all models of a kind, go together; None where there is no r.

    Kinds change places as a whole: whatever makes a kind of training lose more or less lies in all
    of its models, so that more seeds of it are no more evidence. Two-sided; of more than 10,000
    orders, so many are drawn at random.
    """
    r = correlation(x.ravel(), y.ravel())
    if r is None:
        return None
    a, b = (v.reshape(len(v), -1) - v.mean() for v in (x, y))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    products = a @ b.T  # r of an order: the sum of products[i, order[i]]
    n = len(x)
    orders = _orders(n)
    others = products[np.arange(n), orders].sum(axis=1)
    slack = 1e-9  # equal orders may differ by rounding
    p = 2 * min(np.mean(others <= r + slack), np.mean(others >= r - slack))
    needed = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER)  # of Fisher's z
    seen = math.tanh(needed / math.sqrt(n - 3)) if n > 3 else None
    return Correlation(r, min(1.0, float(p)), min(1.0, 2 / len(orders)), seen, n)


def _orders(n: int) -> np.ndarray:
    """Those of n things, [orders, n]; some of them where they are too many. The first is their own,
    which keeps p above 0."""
    if math.factorial(n) <= MOST:
        return np.array(list(itertools.permutations(range(n))))
    rng = np.random.default_rng(seed_of(0))
    drawn = rng.permuted(np.tile(np.arange(n), (MOST - 1, 1)), axis=1)
    return np.vstack([np.arange(n), drawn])


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values of claims looked at together (Holm 1979): below 0.05, no more than one
    family in twenty without any effect has a claim decided."""
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.arange(len(p), 0, -1) * np.array(p)[order])
    return np.minimum(adjusted, 1).tolist()
