"""The paper's claims, each with a verdict from the rows of a study.

A claim says that a number is lower for one kind of model than for another: it holds where Student's
95 % interval of the differences, paired by seed, is below zero, does not where it is above, and is
undecided where zero is in it. Beside that, the verdict after Holm's correction for its family.
"""

import collections
import dataclasses
import itertools
import math
import re
from typing import Any

import numpy as np

from ..flags.choices import GRADIENTS
from . import axes, significance
from .rows import columns_of, mean_and_half, paired, underfits
from .significance import LEVEL

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
FAIR = "not in the paper"  # the place of claims at equal cost
CONTROL = "a control"  # that of a control's own claims: what holds there too is not SAM's doing
AGAINST = "against a control"
SAME_COST = 0.02  # costs that differ by no more are equal
GAPS = {"gap_start": "at the step nearest t = 0", "gap_mean": "over the rest of the chain"}


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
    """`estimate`: the mean difference, or a correlation; low, high: its interval; n: of pairs. p:
    of no effect; holm: the verdict after Holm's correction, "" where there is no p; seen: the
    smallest true effect that would be found in 80 % of repetitions with this n and this scatter;
    base: what the difference is a share of, the mean of `b`, or its distance for what is lost."""

    text: str
    place: str
    column: str
    verdict: str
    estimate: float
    low: float | None
    high: float | None
    n: int
    why: str = ""
    p: float | None = None
    holm: str = ""
    seen: float | None = None
    base: float | None = None


def verdicts(rows: list[dict]) -> list[Verdict]:
    """Judges every claim that the rows have something to say about: the paper's, then the families
    that are not in it."""
    found = [judge(claim, rows) for claim in claims(rows)]
    for own in by_objective(rows).values():
        found += [correlated(own, sharpness(), c) for c in rounding(rows)]
    families: dict[str, list[Verdict]] = {"": [], FAIR: [], AGAINST: [], CONTROL: []}
    for v in filter(None, found):
        families.get(v.place, families[""]).append(v)
    return [v for family in families.values() for v in corrected(family)]


def corrected(family: list[Verdict]) -> list[Verdict]:
    """The same, with `holm`; those without a p do not count."""
    adjusted = iter(significance.holm([v.p for v in family if v.p is not None]))
    holm = [
        "" if v.p is None else v.verdict if next(adjusted) < 1 - LEVEL else UNDECIDED
        for v in family
    ]
    return [dataclasses.replace(v, holm=told) for v, told in zip(family, holm)]


def claims(rows: list[dict]) -> list[Claim]:
    """Makes the claims of each objective, whose losses compare with no other's."""
    return [claim for own in by_objective(rows).values() for claim in _of_objective(own)]


def by_objective(rows: list[dict]) -> dict[str, list[dict]]:
    """Gives the rows of each objective by its name."""
    names = dict.fromkeys(row["objective"] for row in rows)
    return {name: [row for row in rows if row["objective"] == name] for name in names}


def _of_objective(rows: list[dict]) -> list[Claim]:
    """Makes the claims about every gradient that climbs, against the first that neither does that
    nor was added for its cost, of those that take their steps alike, and against that of equal
    cost. All without input perturbation, or with the least."""
    plain = [r["gradient"] for r in rows if not r["climbs"] and not r["matched"]]
    sams, controls, found = climbing(rows), climbing(rows, control=True), []
    for sam in sams + controls:
        name = "SAM" if [sam] == sams else sam
        if plain:
            made = Maker(rows, name, sam, axes.alike(sam, plain)[0])
            own = made.flatness("Adam") + made.flatness_alone() + made.quantization()
            own += made.exposure() + made.quality("Adam", "main table")
            own = [dataclasses.replace(c, place=CONTROL) for c in own] if sam in controls else own
            found += own
        if sam in sams and (equal := of_equal_cost(rows, sam)):
            fair, how = Maker(rows, name, sam, equal), " at equal cost"
            found += fair.quality(equal, FAIR, how) + fair.quality(equal, FAIR, how, rounded=True)
        for control in controls if sam in sams else ():
            against = Maker(rows, name, sam, control).flatness(control)
            found += [dataclasses.replace(c, place=AGAINST) for c in against]
    return found


def climbing(rows: list[dict], control: bool = False) -> list[str]:
    """Gives the gradients that climb, or the controls among them."""
    names = dict.fromkeys(r["gradient"] for r in rows if r["climbs"])
    return [name for name in names if is_control(name) == control]


def is_control(gradient: str) -> bool:
    """Whether the first word of the name is a control of the registry."""
    return getattr(GRADIENTS.get(gradient.split()[0]), "control", False)


def of_equal_cost(rows: list[dict], sam: str) -> str | None:
    """The gradient without a climb whose cost is next to that of `sam`; None if 2 % off."""
    cost = next(r["images"] for r in rows if r["gradient"] == sam)
    off = {r["gradient"]: abs(r["images"] / cost - 1) for r in rows if not r["climbs"]}
    off = {name: off[name] for name in axes.alike(sam, list(off))}
    nearest = min(off, key=off.get, default=None)
    return nearest if off and off[nearest] <= SAME_COST else None


def rounding(rows: list[dict]) -> list[str]:
    """The columns of what distances lose to rounded weights."""
    return [c for c in (rows[0] if rows else ()) if c.startswith("rise_w")]


def flatness() -> dict[str, str]:
    """The columns that are lower for flatter models, and what a claim calls them."""
    return {name: column.claim for name, column in columns_of().items() if column.claim}


def sharpness() -> str:
    """The first of them, by which a model is called sharp."""
    return next(iter(flatness()))


class Maker:
    """The claims that one gradient, `sam`, is better than another, `plain`."""

    def __init__(self, rows: list[dict], name: str, sam: str, plain: str):
        self.rows, self.name, self.sam, self.plain = rows, name, sam, plain
        self.objective = rows[0]["objective"]
        self.shifts = sorted({row["input_pertub"] for row in rows})
        present = dict.fromkeys(row["average"] for row in rows)
        self.averages = sorted(present, key=lambda average: average != "none")
        self.raw = plus(self.averages[0])

    def claim(self, text: str, place: str, column: str, a=None, b=None) -> Claim:
        """`a`, `b`: where sam's and plain's models differ from raw weights of the least shift."""
        base = {"average": self.averages[0], "input_pertub": self.shifts[0]}
        base["objective"] = self.objective
        sam, plain = base | {"gradient": self.sam}, base | {"gradient": self.plain}
        text = of(self.objective) + text
        return Claim(text, place, column, sam | (a or {}), plain | (b or {}))

    def each(self, columns: list[str], place: str, text: str) -> list[Claim]:
        """Makes a claim of every column and average: the {number} that ends its name, and {plus},
        stand in the text."""
        found = []
        for column, average in itertools.product(columns, self.averages):
            told = text.format(number=re.findall(r"\d+", column)[-1], plus=plus(average))
            both = {"average": average}
            found.append(self.claim(told, place, column, both, both))
        return found

    def flatness(self, plain: str) -> list[Claim]:
        text = f"{self.name}{self.raw} is flatter than {plain}{self.raw}"
        told = flatness().items()
        return [self.claim(f"{text}: {name}", "abstract", column) for column, name in told]

    def flatness_alone(self) -> list[Claim]:
        """Than an Adam that is averaged, or has input perturbation."""
        others = [(plus(a), {"average": a}) for a in self.averages[1:]]
        if len(self.shifts) > 1:
            shift = {"input_pertub": self.shifts[-1]}
            others.append((f"{self.raw} with input perturbation", shift))
        alone = f"{self.name}{self.raw or ' alone'} is flatter than Adam"
        column = sharpness()
        told = [(f"{alone}{what}: {flatness()[column]}", b) for what, b in others]
        return [self.claim(text, "abstract", column, b=b) for text, b in told]

    def quantization(self) -> list[Claim]:
        text = f"{self.name}{{plus}} loses less distance at {{number}} bits than Adam{{plus}}"
        return self.each(rounding(self.rows), "quantization", text)

    def exposure(self) -> list[Claim]:
        text = f"{self.name}{self.raw} has a smaller epsilon-norm gap than Adam{self.raw}"
        return [self.claim(f"{text}, {told}", "exposure bias", c) for c, told in GAPS.items()]

    def quality(self, against: str, place: str, how="", rounded=False) -> list[Claim]:
        """`rounded`: of rounded weights, by which somebody chooses who deploys them."""
        kind, number = (r"_w\d+", "at {number} bits") if rounded else ("", "{number} steps")
        columns = [c for c in self.rows[0] if re.fullmatch(rf"fd_\d+{kind}", c)]
        text = f"{self.name}{{plus}} has a lower distance than {against}{{plus}}{how}"
        return self.each(columns, place, f"{text}, {number}")


def of(objective: str) -> str:
    """What a name has before it for its objective."""
    return f"{objective}: " if objective else ""


def plus(average: str) -> str:
    """What a name has behind it for its average."""
    return "" if average == "none" else f" + {average.upper()}"


def judge(claim: Claim, rows: list[dict]) -> Verdict | None:
    """None where no seed has both models."""
    differences = paired(rows, claim.a, claim.b, claim.column)
    n = len(differences)
    if not n:
        return None
    about = claim.text, claim.place, claim.column
    if n == 1:
        return Verdict(*about, UNDECIDED, differences[0], None, None, n, "one seed")
    found = significance.mean_of(differences)
    verdict = HOLDS if found.high < 0 else FAILS if found.low > 0 else UNDECIDED
    why = "underfitting" if verdict != UNDECIDED and _underfitted(claim, rows) else ""
    lost = claim.column in rounding(rows)
    whole = next(c for c in rows[0] if c.startswith("fd_")) if lost else claim.column
    base, _ = mean_and_half(row[whole] for row in rows if row.items() >= claim.b.items())
    return Verdict(*about, verdict, *found[:3], n, why, found.p, seen=found.seen, base=base)


def _underfitted(claim: Claim, rows: list[dict]) -> bool:
    """Tells, of a claim about a gap, whether one of the two underfits there and the gaps differ
    more by the norm in training than by that in sampling."""
    if claim.column not in GAPS:
        return False
    where = claim.column.removeprefix("gap_")
    sides = [r for r in rows for k in (claim.a, claim.b) if r.items() >= k.items()]
    by_training, by_sampling = (
        abs(math.fsum(paired(rows, claim.a, claim.b, f"{norm}_{where}")))
        for norm in ("training", "sampling")
    )
    return by_training > by_sampling and any(underfits(row, where) for row in sides)


def correlated(rows: list[dict], x: str, y: str) -> Verdict | None:
    """Whether sharper models lose more: Pearson's r over models, its p by permuting kinds of
    training. Trainings with all averages count, of seeds that each kind has. None for fewer than
    two kinds, or without an r."""
    averages = sorted({row["average"] for row in rows})
    trainings, kinds = collections.defaultdict(dict), collections.defaultdict(dict)
    for row in rows:
        if None not in (row.get(x), row.get(y)):
            key = row["gradient"], row["input_pertub"], row["seed"]
            trainings[key][row["average"]] = row[x], row[y]
    for (*kind, seed), found in trainings.items():
        if len(found) == len(averages):
            kinds[tuple(kind)][seed] = [found[a] for a in averages]
    if len(kinds) < 2:
        return None
    seeds = sorted(set.intersection(*map(set, kinds.values())))
    pairs = np.array([[of[seed] for seed in seeds] for of in kinds.values()])
    r = significance.by_kind(pairs[..., 0], pairs[..., 1]) if seeds else None
    if r is None:
        return None
    bits = y.removeprefix("rise_w")
    text = f"Sharper models lose more at {bits} bits: r of {flatness()[x]} and the loss"
    text = of(rows[0]["objective"]) + text
    verdict = UNDECIDED if r.p >= 1 - LEVEL else HOLDS if r.r > 0 else FAILS
    why = f"{r.kinds} kinds of training cannot decide it" if r.least >= 1 - LEVEL else ""
    about = text, "theorem 2", "r", verdict, r.r, None, None, r.kinds, why
    return Verdict(*about, r.p, seen=r.seen)
