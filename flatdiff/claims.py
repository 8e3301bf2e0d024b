"""The paper's claims, each with a verdict from the rows of a study.

A claim says that a number is lower for one kind of model than for another. Differences are paired
by seed; their 95 % interval is Student's t. A claim holds where the interval is below zero, does
not where it is above, and is undecided where zero is in it.
"""

import dataclasses
import math
from statistics import NormalDist
from typing import Any

from .study_rows import paired

LEVEL = 0.95
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
VERDICTS = (HOLDS, FAILS, UNDECIDED)
FLATNESS = {"lpf": "LPF", "mc": "MC", "eigenvalue": "largest eigenvalue"}
GAPS = {"gap_start": "at the step nearest t = 0", "gap_mean": "over the chain"}


@dataclasses.dataclass(frozen=True)
class Claim:
    """`column` is lower for the models with the values of `a` than for those of `b`."""

    text: str
    place: str
    column: str
    a: dict[str, Any]
    b: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`estimate`: the mean difference, or a correlation; low, high: its interval; n: of pairs."""

    text: str
    place: str
    column: str
    verdict: str
    estimate: float
    low: float | None
    high: float | None
    n: int
    why: str = ""


def verdicts(rows: list[dict]) -> list[Verdict]:
    """On every claim that the rows have something to say about."""
    found = [judge(claim, rows) for claim in claims(rows)]
    found += [correlated(rows, "lpf", c) for c in _columns(rows) if c.startswith("rise_w")]
    return [verdict for verdict in found if verdict]


# What the paper says


def claims(rows: list[dict]) -> list[Claim]:
    """Those about every gradient that climbs, against the first that does neither that nor more
    steps. Both without input perturbation, or with the least."""
    sams = list(dict.fromkeys(r["gradient"] for r in rows if r["climbs"]))
    plain = [r["gradient"] for r in rows if not r["climbs"] and not r["twice"]]
    twice = [r["gradient"] for r in rows if r["twice"]]
    found = []
    for sam in sams if plain else ():
        name = sam if len(sams) > 1 else "SAM"
        made = Maker(rows, name, sam, plain[0])
        found += made.flatness() + made.quantization() + made.exposure() + made.quality()
        found += made.fair(twice[0]) if twice else []
    return found


class Maker:
    """The claims that one gradient, `sam`, is better than another, `plain`."""

    def __init__(self, rows: list[dict], name: str, sam: str, plain: str):
        self.rows, self.name = rows, name
        self.shifts = sorted({row["input_pertub"] for row in rows})
        present = {row["average"] for row in rows}
        self.averages = [a for a in ("none", "ema", "swa") if a in present]
        self.raw = self.averages[0]
        self.sam, self.plain = {"gradient": sam}, {"gradient": plain}

    def claim(self, text, place, column, a, b) -> Claim:
        """`a`, `b`: values that differ from the raw weights without input perturbation."""
        base = {"average": self.raw, "input_pertub": self.shifts[0]}
        return Claim(text, place, column, base | a, base | b)

    def flatness(self) -> list[Claim]:
        found = [
            self.claim(
                f"{self.name} is flatter than Adam: {told}",
                "abstract",
                column,
                self.sam,
                self.plain,
            )
            for column, told in FLATNESS.items()
        ]
        for average in [a for a in self.averages if a != self.raw]:
            text = f"{self.name} alone is flatter than Adam + {average.upper()}: LPF"
            other = self.plain | {"average": average}
            found.append(self.claim(text, "abstract", "lpf", self.sam, other))
        if len(self.shifts) > 1:
            text = f"{self.name} alone is flatter than Adam with input perturbation: LPF"
            other = self.plain | {"input_pertub": self.shifts[-1]}
            found.append(self.claim(text, "abstract", "lpf", self.sam, other))
        return found

    def quantization(self) -> list[Claim]:
        return [
            self.claim(
                f"{self.name} loses less distance at {column.removeprefix('rise_w')} bits "
                f"than Adam{_plus(average)}",
                "quantization",
                column,
                self.sam | {"average": average},
                self.plain | {"average": average},
            )
            for column in _columns(self.rows)
            if column.startswith("rise_w")
            for average in self.averages
        ]

    def exposure(self) -> list[Claim]:
        return [
            self.claim(
                f"{self.name} has a smaller epsilon-norm gap than Adam, {told}",
                "exposure bias",
                column,
                self.sam,
                self.plain,
            )
            for column, told in GAPS.items()
        ]

    def quality(self) -> list[Claim]:
        return self._distances("Adam", self.plain, "main table")

    def fair(self, twice: str) -> list[Claim]:
        return self._distances("Adam of twice the steps", {"gradient": twice}, "not in the paper")

    def _distances(self, against: str, other: dict, place: str) -> list[Claim]:
        return [
            self.claim(
                f"{self.name}{_plus(average)} has a lower distance than "
                f"{against}{_plus(average)}, {column.removeprefix('fd_')} steps",
                place,
                column,
                self.sam | {"average": average},
                other | {"average": average},
            )
            for column in _columns(self.rows)
            if column.removeprefix("fd_").isdigit()
            for average in self.averages
        ]


def _plus(average: str) -> str:
    return "" if average == "none" else f" + {average.upper()}"


def _columns(rows: list[dict]) -> list[str]:
    return list(rows[0]) if rows else []


# Verdicts


def judge(claim: Claim, rows: list[dict]) -> Verdict | None:
    """None where no seed has both models."""
    differences = paired(rows, claim.a, claim.b, claim.column)
    n = len(differences)
    if not n:
        return None
    about = claim.text, claim.place, claim.column
    mean = math.fsum(differences) / n
    if n == 1:
        return Verdict(*about, UNDECIDED, mean, None, None, n, "one seed")
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(variance / n)
    low, high = mean - half, mean + half
    verdict = HOLDS if high < 0 else FAILS if low > 0 else UNDECIDED
    return Verdict(*about, verdict, mean, low, high, n)


def correlated(rows: list[dict], x: str, y: str) -> Verdict | None:
    """Whether sharper models lose more: Pearson's r over models, interval by Fisher's z.

    Models that share a training are no independent draws, so the interval is too narrow.
    """
    pairs = [(row[x], row[y]) for row in rows if None not in (row.get(x), row.get(y))]
    n = len(pairs)
    r = correlation(pairs)
    if r is None:
        return None
    text = f"Sharper models lose more at {y.removeprefix('rise_w')} bits: r of LPF and the loss"
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) / math.sqrt(n - 3)
    z = math.atanh(r)
    low, high = math.tanh(z - half), math.tanh(z + half)
    verdict = HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED
    return Verdict(text, "theorem 2", "r", verdict, r, low, high, n)


def correlation(pairs: list[tuple[float, float]]) -> float | None:
    """Pearson's; None for fewer than four pairs, or where one side does not vary."""
    if len(pairs) < 4:
        return None
    mx, my = (math.fsum(values) / len(pairs) for values in zip(*pairs))
    sxx, syy, sxy = (
        math.fsum((p[i] - m) * (p[j] - k) for p in pairs)
        for i, j, m, k in ((0, 0, mx, mx), (1, 1, my, my), (0, 1, mx, my))
    )
    if not (sxx and syy):
        return None
    return max(-1 + 1e-12, min(1 - 1e-12, sxy / math.sqrt(sxx * syy)))


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with `level` of Student's distribution within [-t, t]."""
    low, high = 0.0, 1.0
    while within(high, freedom) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < level else (low, middle)
    return high


def within(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = total = math.cos(theta) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= math.cos(theta) ** 2 * (k - 1) / k
        total += term
    if odd:
        rest = math.sin(theta) * total if freedom > 1 else 0.0
        return 2 / math.pi * (theta + rest)
    return math.sin(theta) * total
