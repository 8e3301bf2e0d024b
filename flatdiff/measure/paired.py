"""How two networks' numbers differ: paired where they were drawn alike, with 95 % intervals.

What is paired has the error of its differences; what is not, the root of both errors' squares. So
have the two errors together that a difference has, over draws of the move and over examples.
"""

import math

import torch
from scipy import stats
from torch import Tensor

from .subject import unpacked

LEVEL = 0.95


def interval(difference: float, draws: float, count: int, examples: float) -> dict[str, float]:
    """Return error, low and high of two independent errors: of so many draws, whose share of the
    interval is Student's, and over examples, whose share is a normal's."""
    tail = (1 + LEVEL) / 2
    half = math.hypot(stats.t.ppf(tail, count - 1) * draws, stats.norm.ppf(tail) * examples)
    told = {"difference": difference, "error": math.hypot(draws, examples)}
    return told | {"low": difference - half, "high": difference + half}


def over_draws(ours: Tensor, theirs: Tensor, together: bool) -> tuple[float, float, int]:
    """Return the mean difference of independent values [K] and [L], its error, and how many there
    were, the fewer; with `together`, they are pairs."""
    difference = float(ours.mean() - theirs.mean())
    if together and len(ours) == len(theirs):
        return difference, error(ours - theirs), len(ours)
    return difference, math.hypot(error(ours), error(theirs)), min(len(ours), len(theirs))


def error(values: Tensor) -> float:
    """Return the standard error of the mean of independent values [K]."""
    return float(values.std() / math.sqrt(len(values)))


def over_examples(one, other, ours: Tensor, theirs: Tensor, term: str) -> float:
    """Return the error, over examples and levels, of the mean of ours [N] less that of theirs."""
    if alike(one, other, term):
        return float(one.errors_of((ours - theirs)[None], [term])[0, 0])
    both = (one, ours), (other, theirs)
    return math.hypot(*(float(of.errors_of(v[None], [term])[0, 0]) for of, v in both))


def same_parts(term: str, ours: dict[str, str], theirs: dict[str, str]) -> list[bool]:
    """Return of each part of a term's range, each a label and the levels in it, whether it is the
    same in both: of one label, and of x_mse of one log-SNR; what else is, its reader knows."""
    pairs = zip(ours.items(), theirs.items())
    return [a == b if term == "x_mse" else a[0] == b[0] for a, b in pairs]


def _same_parts_of(one, other, term: str) -> list[bool]:
    parts = (subject.axes[term].parts.items() for subject in (one, other))
    return same_parts(term, *({name: levels for name, (levels, _) in of} for of in parts))


def same_range(one, other, term: str) -> bool:
    """Return whether a term is of the same range in both."""
    return _same_parts_of(one, other, term)[0]


def of_difference(subject, rise: Tensor, other, of_other: Tensor) -> dict[str, list[float]]:
    """Return, by term, the error [5] of one mean rise [terms, N] less another's: paired image by
    image, where these have the same timesteps in both; nan of parts that are not the same."""
    ours, theirs = dict(zip(subject.terms, rise)), dict(zip(other.terms, of_other))

    def error(term: str) -> Tensor:
        if alike(subject, other, term):
            return subject.errors_of((ours[term] - theirs[term])[None], [term])[0]
        both = (subject, ours), (other, theirs)
        apart = torch.hypot(*(of.errors_of(rows[term][None], [term])[0] for of, rows in both))
        return apart.where(torch.tensor(_same_parts_of(subject, other, term)), math.nan)

    return {term: error(term).tolist() for term in ours if term in theirs}


def alike(one, other, term: str) -> bool:
    """Return whether both subjects have the same examples, noise and levels in a term, which count
    alike."""
    plans = [subject.axes[term].plan for subject in (one, other)]
    same = (torch.equal(*(getattr(p, name) for p in plans)) for name in ("t", "weight", "stratum"))
    return bool(one.drawn) and one.drawn == other.drawn and all(same)


def pairs(values: Tensor) -> Tensor:
    """Return the means [P, ...] of mirrored pairs [2 P, ...], which are independent."""
    if len(values) % 2 or len(values) < 4:
        raise ValueError(
            f"num_draws is {len(values)}; expected an even number, 4 or more: draws are mirrored "
            "pairs, and an error bar needs two of them"
        )
    return (values[0::2] + values[1::2]) / 2


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the first dimension of independent values [K, ...], and its error."""
    return values.mean(dim=0), values.std(dim=0) / math.sqrt(len(values))


def curves(one, other) -> list[dict]:
    """Return the difference of two curves' rises at each size and term of both; each is told as
    (subject, measure, results of its tasks)."""
    (ours, own, _), (theirs, base, _) = one, other
    alone = [(s.seed, m.num_draws, m.noise_scale) for s, m in ((ours, own), (theirs, base))]
    rows = []
    if own.noise_scale != base.noise_scale:
        return rows
    for size in (size for size in own.sizes if size in base.sizes):
        a, b = rises(*one, size), rises(*other, size)
        for term in (term for term in a if term in b and same_range(ours, theirs, term)):
            (pairs_a, each_a), (pairs_b, each_b) = a[term], b[term]
            found = over_draws(pairs_a, pairs_b, alone[0] == alone[1])
            told = interval(*found, over_examples(ours, theirs, each_a, each_b, term))
            rows.append({"size": size, "term": term, **told})
    return rows


def rises(subject, measure, results: list, size: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, by term, the mean rise of each pair of draws [P], and of each example [N]."""
    start = measure.sizes.index(size) * measure.num_draws
    row = results[start : start + measure.num_draws]
    each = sum(unpacked(r["rises"]) for r in row) / len(row)
    moved = torch.tensor([[term[0] for term in r["losses"]] for r in row], dtype=torch.float64)
    of_pairs = pairs(moved - subject.at_w[:, 0])
    return {term: (of_pairs[:, i], each[i]) for i, term in enumerate(subject.terms)}
