"""Where the scatter of a number comes from: the training seed, the checkpoint, the generation seed.

A number of one checkpoint's samples is a kind's mean (at that step, where several trainings have
it), plus a normal draw for each generation seed, training, checkpoint of a training, and set of
samples. The components are found by equating sums of squares with their expectations (Henderson
1953, method 3: any design, unequal sizes), the intervals by the modified large-sample method
(Graybill & Wang 1980), which is chi-square's for one square.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from ..judge.jackknife import NUM_GROUPS
from ..judge.power import LEVEL
from ..report.text import Rows

TRAINING, CHECKPOINT, GENERATION = "training seed", "checkpoint", "generation seed"

ONE_EACH = {  # why there is none
    TRAINING: "one of each kind",
    CHECKPOINT: "one of each training",
    GENERATION: "one of each checkpoint",
}


class Observation(NamedTuple):
    """A number, and what it is of. `kind`: what seeds are repetitions of. `left_out`: what the
    jackknife over images left of it, () where that is not known."""

    value: float
    kind: Hashable
    training: Hashable
    checkpoint: Hashable = 0
    generation: Hashable = 0
    left_out: Sequence[float] = ()


class Component(NamedTuple):
    """A variance, its 95 % interval, and its share in the sum of all that are known; None where the
    numbers that there are cannot tell, and `why` not: it is then part of the one above it."""

    name: str
    variance: float | None
    low: float | None = None
    high: float | None = None
    share: float | None = None
    why: str = ""


class Square(NamedTuple):
    """A mean square of so many degrees of freedom, and how often it has each component."""

    value: float
    freedom: float
    has: dict[str, float]


def split(found: Sequence[Observation]) -> list[Component]:
    """The three components, of observations of one kind or several, which share them.

    Where no checkpoint was sampled twice, that of the generation seed is the jackknife's over
    images. Its covariances tell what trainings, or checkpoints, that were sampled from the same
    noise share: that is no part of their difference, so of its error neither.
    """
    squares = squares_of(found)
    names = (TRAINING, CHECKPOINT, "common", "rest")
    told = {name: combination(squares, name) for name in names if name in squares}
    parts = {n: estimate(squares, told[n]) for n in (TRAINING, CHECKPOINT) if n in told}
    if "images" in squares:
        parts[GENERATION] = estimate(squares, {"images": 1.0})
    elif "rest" in told:
        parts[GENERATION] = estimate(squares, _sum(told["rest"], told.get("common", {})))
    total = math.fsum(max(0.0, value) for value, _, _ in parts.values())
    return [_component(name, parts, total) for name in (TRAINING, CHECKPOINT, GENERATION)]


def squares_of(found: Sequence[Observation]) -> dict[str, Square]:
    """The mean squares by the component that they tell of: each is what its groups explain beyond
    the groups before it."""
    values = np.array([o.value for o in found], float)
    spans = {"kind": _alike(found)}
    leaves = [(o.kind, o.training, o.checkpoint) for o in found]
    seeds = [(o.kind, o.generation) for o in found]
    if len(set(leaves)) < len(found) > len(set(seeds)):  # checkpoints share generation seeds
        spans["common"] = seeds
    spans |= {TRAINING: [leaf[:2] for leaf in leaves], CHECKPOINT: leaves}
    designs = {name: _design(labels) for name, labels in spans.items()}
    basis, squares, told = np.zeros((len(found), 0)), {}, {}
    for name, design in designs.items():
        new = _beyond(basis, design)
        basis = np.hstack([basis, new])
        if name != "kind" and new.shape[1]:
            has = {
                other: float(np.square(new.T @ designs[other]).sum()) / new.shape[1]
                for other in designs
                if other != "kind"
            }
            has = {other: n for other, n in has.items() if n > 1e-9} | {"rest": 1.0}
            squares[name] = Square(float(np.square(new.T @ values).mean()), new.shape[1], has)
            told[name] = new
    if freedom := len(found) - basis.shape[1]:
        rest = values - basis @ (basis.T @ values)
        squares["rest"] = Square(float(np.square(rest).sum()) / freedom, freedom, {"rest": 1.0})
    elif all(len(o.left_out) == NUM_GROUPS for o in found):
        squares |= _of_images(found, squares, told)
    return squares


def combination(squares: dict[str, Square], name: str) -> dict[str, float]:
    """The factors of mean squares whose sum has the component once and no other's."""
    has = squares[name].has
    factors = {name: 1 / has[name]}
    for other, times in has.items():
        if other != name and other in squares:
            more = combination(squares, other)
            factors = _sum(factors, {k: -times / has[name] * f for k, f in more.items()})
    return factors


def estimate(squares: dict[str, Square], factors: dict[str, float]) -> tuple[float, float, float]:
    """The sum of mean squares with these factors, and its 95 % interval."""
    value = math.fsum(f * squares[name].value for name, f in factors.items())
    below = above = 0.0
    for name, factor in factors.items():
        freedom, size = squares[name].freedom, factor * squares[name].value
        tails = (freedom / stats.chi2.ppf(p, freedom) for p in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
        low, high = ((tail - 1) * size for tail in tails)
        below, above = below + min(low, high) ** 2, above + max(low, high) ** 2
    return value, value - math.sqrt(below), value + math.sqrt(above)


def table(parts: list[Component]) -> Rows:
    """The components as standard deviations, with their shares."""
    rows = [["scatter from", "standard deviation", "95 % interval", "share of the variance"]]
    for part in parts:
        if part.variance is None:
            rows.append([part.name, "", part.why, ""])
            continue
        root, low, high = (math.sqrt(max(0.0, v)) for v in part[1:4])
        share = "" if part.share is None else f"{part.share:.0%}"
        rows.append([part.name, f"{root:.3g}", f"{low:.3g} to {high:.3g}", share])
    return rows


def _component(name: str, parts: dict, total: float) -> Component:
    if name in parts:
        value, low, high = parts[name]
        value = max(0.0, value)
        share = value / total if total and len(parts) > 1 else None
        return Component(name, value, max(0.0, low), high, share)
    return Component(name, None, why=ONE_EACH[name])


def _of_images(found: Sequence[Observation], squares: dict, told: dict) -> dict[str, Square]:
    """What new images change, by the jackknife over them: "images", of a number; and beside each
    mean square, of the columns in `told`, its share in that."""
    apart = np.array([o.left_out for o in found], float)
    apart = (apart - apart.mean(1, keepdims=True)) * math.sqrt((NUM_GROUPS - 1) / NUM_GROUPS)
    images = {"images": _mean_square("images", apart)}
    for name, columns in told.items():
        own = f"images, {name}"
        images[name] = squares[name]._replace(has=squares[name].has | {own: 1.0})
        images[own] = _mean_square(own, columns.T @ apart)
    return images


def _mean_square(name: str, apart: np.ndarray) -> Square:
    """Of rows whose covariances are apart @ apart.T: equal rows have the freedom of one."""
    covariances = apart @ apart.T
    whole, freedom = float(np.trace(covariances)), NUM_GROUPS - 1
    rows = whole**2 / float(np.square(covariances).sum()) if whole else 1.0
    return Square(whole / len(apart), freedom * rows, {name: 1.0})


def _alike(found: Sequence[Observation]) -> list[tuple]:
    """What has a mean of its own: a kind, and each checkpoint that several of its trainings have,
    so that what all of them gain from one to the next is no scatter."""
    trainings: dict[tuple, set] = {}
    for o in found:
        trainings.setdefault((o.kind, o.checkpoint), set()).add(o.training)
    several = {at for at, of in trainings.items() if len(of) > 1}
    return [at if (at := (o.kind, o.checkpoint)) in several else (o.kind,) for o in found]


def _design(labels: Sequence[Hashable]) -> np.ndarray:
    """A column for each label, of ones where it stands."""
    names = {name: i for i, name in enumerate(dict.fromkeys(labels))}
    return np.eye(len(names))[[names[label] for label in labels]]


def _beyond(basis: np.ndarray, design: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what the design spans beyond the basis."""
    rest = design - basis @ (basis.T @ design)
    left, sizes, _ = np.linalg.svd(rest, full_matrices=False)
    return left[:, sizes > 1e-8]


def _sum(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {name: a.get(name, 0.0) + b.get(name, 0.0) for name in {**a, **b}}
