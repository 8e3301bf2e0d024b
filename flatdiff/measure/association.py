"""How two effects of the same moves go together: a rank correlation, and how well it is known.

Each effect was measured on images that all moves share, so their errors are correlated. They are
told as deviations [moves, parts]: what each part (an image, a group of images) adds to the error of
each move, in sum of squares the variance. A wild bootstrap gives every part one standard normal
factor, for all moves alike; so what parts do to all moves stays shared.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
DRAWS = 2000


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

    spearman: of ranks, so that no effect needs to be positive, and no unit matters. low, high: over
    images and kinds of moves, both drawn anew; low_images, high_images: over images alone, these
    moves given. pearson: of the logarithms, over the `positive` moves where both effects are so.
    Intervals are those of a normal atanh(r). None where there are fewer than 3 moves.
    """
    rng = np.random.default_rng(seed)
    count = len(kinds)
    if count < 3:
        return {"spearman": None, "moves": count}
    found = float(spearman(loss.values, distance.values))
    drawn = loss.drawn(rng, DRAWS), distance.drawn(rng, DRAWS)
    images = spearman(*drawn)
    groups = [np.flatnonzero(np.array(kinds) == kind) for kind in dict.fromkeys(kinds)]
    both = []
    for x, y in zip(*drawn):
        rows = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        both.append(spearman(x[rows], y[rows]))
    told = {"spearman": found, "moves": count, "kinds": len(groups)}
    told |= dict(zip(("low", "high"), interval(found, np.array(both))))
    told |= dict(zip(("low_images", "high_images"), interval(found, images)))
    positive = (loss.values > 0) & (distance.values > 0)
    logs = np.log(loss.values[positive]), np.log(distance.values[positive])
    pearson = float(np.corrcoef(*logs)[0, 1]) if positive.sum() > 2 else None
    return told | {"pearson": pearson, "positive": int(positive.sum())}


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation over the last axis, [..., M] -> [...]; nan where one is constant."""
    ranks = [stats.rankdata(v, axis=-1) for v in (x, y)]
    a, b = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def interval(value: float, drawn: np.ndarray) -> tuple[float, float]:
    """Return the ends of a normal interval of atanh(r), whose deviation is that of the draws."""
    inside = np.clip([value, *drawn[np.isfinite(drawn)]], -0.9999, 0.9999)
    z, *others = np.arctanh(inside)
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.std(others)
    return float(np.tanh(z - half)), float(np.tanh(z + half))
