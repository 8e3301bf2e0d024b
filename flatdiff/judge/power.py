"""What a t-test could have seen: the smallest true difference that it finds four times in five."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import optimize, stats

from . import jackknife

LEVEL = 0.95
POWER = 0.8
LOWER, HIGHER, TIE = "lower", "higher", "tie"


class Difference(NamedTuple):
    """A difference, its standard error, the 95 % interval, and the smallest true difference that
    would be told from 0 in 80 % of repetitions; nan where there is no error."""

    value: float
    error: float
    low: float
    high: float
    seen: float

    @property
    def verdict(self) -> str:
        """Says on which side of 0 the interval is, "" where there is none: a tie is no equality,
        but nothing seen."""
        if math.isnan(self.error):
            return ""
        return LOWER if self.high < 0 else HIGHER if self.low > 0 else TIE


@functools.cache
def in_errors(freedom: float) -> float:
    """The true mean, in its standard errors, that a two-sided t-test of so many degrees of freedom
    finds in 80 %. Of the noncentral t distribution (Cohen 1988, chapter 2): 5.7 for two degrees,
    3.2 for nine, 2.8 for many."""
    edge = stats.t.ppf((1 + LEVEL) / 2, freedom)

    def too_often(shift):  # found on the wrong side: less than one in a thousand, left out
        return stats.nct.sf(edge, freedom, shift) - POWER

    return float(optimize.brentq(too_often, 0.1, 2 + 1.5 * edge))


def test(value: float, error: float, freedom: float) -> Difference:
    """Student's t of a value with its standard error."""
    if not error > 0:
        return Difference(value, *[float("nan") if math.isnan(error) else value] * 3, error)
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
    return Difference(value, error, value - half, value + half, in_errors(freedom) * error)


def difference(
    value: float, a: Sequence[float], b: Sequence[float], *, paired: bool, more: float = 0.0
) -> Difference:
    """`value` is one distance less another; a, b: what the jackknife left of each, each error of
    nine degrees of freedom.

    paired: of as many images, so in the same groups; what images of one noise share cancels. Else
    both errors add up (Welch 1947). more: a variance that the jackknife does not know.
    """
    freedom = jackknife.NUM_GROUPS - 1
    if not (len(a) and len(b)):
        return test(value, float("nan"), freedom)
    if paired:
        variance = jackknife.error([x - y for x, y in zip(a, b)]) ** 2
    else:
        both = [jackknife.error(x) ** 2 for x in (a, b)]
        variance = sum(both)
        freedom *= variance**2 / sum(v**2 for v in both) if variance else 1
    return test(value, math.sqrt(variance + more), freedom)
