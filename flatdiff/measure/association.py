"""How two effects of the same moves go together: a rank correlation, and how well it is known.

Each effect was measured on images that all moves share, so their errors are correlated. They are
told as deviations [moves, parts]: what each part (an image, a group of images) adds to the error of
each move, in sum of squares the variance. A wild bootstrap gives every part one standard normal
factor, for all moves alike; so what parts do to all moves stays shared.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
DRAWS = 1000


class Effect(NamedTuple):
    """An effect of moves: estimates [M], and deviations [M, parts] of them."""

    values: np.ndarray
    deviations: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Standard errors [M]."""
        return np.sqrt((self.deviations**2).sum(axis=1))

    def drawn(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """The estimates as other images might have them: [count, M]."""
        return self.values + rng.normal(size=(count, self.deviations.shape[1])) @ self.deviations.T


def correlation(loss: Effect, distance: Effect, kinds: list[str], seed: int = 0) -> dict:
    """Return Spearman's correlation of two effects over the moves, with 95 % intervals.

    spearman: of ranks, so that an effect need not be positive, and its unit does not matter. low,
    high: for other images, these moves given; low_kinds, high_kinds: for other images and other
    kinds of moves, which are drawn with replacement, None for fewer than 3 kinds. pearson: of the
    logarithms, over the `positive` moves where both effects are so. All None for fewer than 3.
    """
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(np.array(kinds) == kind) for kind in dict.fromkeys(kinds)]
    told = {"moves": len(kinds), "kinds": len(groups), "spearman": None, "pearson": None}
    if len(kinds) < 3:
        return told
    found = float(spearman(loss.values, distance.values))
    drawn = loss.drawn(rng, DRAWS), distance.drawn(rng, DRAWS)
    parts = min(effect.deviations.shape[1] for effect in (loss, distance))
    told["low"], told["high"] = interval(found, spearman(*drawn), parts)
    told["low_kinds"] = told["high_kinds"] = None
    if len(groups) > 2:
        chosen = rng.integers(len(groups), size=(DRAWS, len(groups)))
        rows = [np.concatenate([groups[i] for i in each]) for each in chosen]
        both = np.array([spearman(x[r], y[r]) for x, y, r in zip(*drawn, rows)])
        told["low_kinds"], told["high_kinds"] = interval(found, both, len(groups))
    positive = (loss.values > 0) & (distance.values > 0)
    if positive.sum() > 2:
        logs = np.log(loss.values[positive]), np.log(distance.values[positive])
        told["pearson"] = float(np.corrcoef(*logs)[0, 1])
    return told | {"spearman": found, "positive": int(positive.sum())}


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation over the last axis, [..., M] -> [...]; nan where one is constant."""
    ranks = [stats.rankdata(v, axis=-1) for v in (x, y)]
    a, b = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def interval(value: float, drawn: np.ndarray, parts: int) -> tuple[float, float]:
    """Return the ends of Student's interval of atanh(r), of so many independent parts.

    Its error is the root mean square of the draws' distance from the value: their bias counts, as
    noise pulls a correlation towards 0, in the value as in its draws.
    """
    inside = np.clip([value, *drawn[np.isfinite(drawn)]], -0.9999, 0.9999)
    z, *others = np.arctanh(inside)
    error = math.sqrt(np.mean((np.array(others) - z) ** 2))
    half = stats.t.ppf((1 + LEVEL) / 2, parts - 1) * error
    return float(np.tanh(z - half)), float(np.tanh(z + half))
