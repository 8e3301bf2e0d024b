"""The terms of a rise, and why one network's is larger than another's, example by example.

A rise is g.d + |d|^2 k / 2 + rest. Of two networks, the difference of the products |d|^2 k / 2 has
two parts, each the mean over both orders in which one factor is exchanged after the other (Shapley
1953; of two factors it is the symmetric product rule):

    length      (|d|^2 - |d'|^2) (k + k') / 4         shorter d, as of a smaller range of weights
    curvature   (k - k') (|d|^2 + |d'|^2) / 4         a flatter loss along it

Both, the slopes' and the rests' difference add up to the gap to the last bit but rounding.
"""

import math

from scipy import stats
from torch import Tensor

from . import paired

AT_W, ON_THE_WAY = "at w", "on the way"
NORMAL = float(stats.norm.ppf((1 + paired.LEVEL) / 2))
Series = dict[str, Tensor]  # [N] each


def terms(found: Series, length: float) -> Series:
    """Return the terms of "slope", "curvature" (d.Hd), "halfway", "end" (slopes), "rise" and "back"
    (the rise at w - d) of a d of that length."""
    slope, half, rise = found["slope"], found["curvature"] / 2, found["rise"]
    path = (slope + 4 * found["halfway"] + found["end"]) / 6
    square = length**2
    return {
        "slope": slope,
        "half_curvature": half,
        "predicted": slope + half,
        "rise": rise,
        "rest": rise - slope - half,
        "path": path,
        "path_rest": rise - path,
        "kappa": found["curvature"] / square,
        "kappa_on_the_way": 2 * (rise - slope) / square,
        "kappa_at_length": (rise + found["back"]) / square,
    }


def gap(ours: Series, length: float, theirs: Series, other: float, of: str) -> Series:
    """Return the parts of ours less theirs, of `terms`: by the curvature at w, or on the way."""
    kappa = "kappa" if of == AT_W else "kappa_on_the_way"
    mine, its = ours[kappa], theirs[kappa]
    parts = {
        "gap": ours["rise"] - theirs["rise"],
        "length": (length**2 - other**2) * (mine + its) / 4,
        "curvature": (mine - its) * (length**2 + other**2) / 4,
        "slope": ours["slope"] - theirs["slope"],
    }
    return parts | ({"rest": ours["rest"] - theirs["rest"]} if of == AT_W else {})


def told(subject, parts: Series) -> list[dict]:
    """Return each part's value, with its error over examples and its 95 % interval, and its share
    of the gap, with an interval to first order; no share where the gap's interval holds 0.

    Intervals are normal: of few examples, a few of which curve far more than all others, they are
    too narrow, and shares of a gap that is hardly seen are of the times when it was large.
    """
    term = subject.terms[0]

    def of(statistic, values: Tensor) -> float:
        return float(statistic(values[None], [term])[0, 0])

    values = {name: of(subject.means, each) for name, each in parts.items()}
    errors = {name: of(subject.errors_of, each) for name, each in parts.items()}
    whole, seen = values["gap"], abs(values["gap"]) > NORMAL * errors["gap"]
    rows = []
    for name, each in parts.items():
        value, half = values[name], NORMAL * errors[name]
        row = {"part": name, "value": value, "error": errors[name]}
        row |= {"low": value - half, "high": value + half, "seen": seen}
        share = value / whole if seen else math.nan
        half = NORMAL * of(subject.errors_of, (each - share * parts["gap"]) / whole) if seen else 0
        rows.append(row | {"share": share, "share_low": share - half, "share_high": share + half})
    return rows
