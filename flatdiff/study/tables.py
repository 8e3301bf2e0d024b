"""The tables of a study's report: header and rows of text, for Markdown and HTML alike."""

import math

from ..report.compare import REAL
from .claims import Verdict
from .rows import mean_and_half

PLAIN = {
    "images": "images, thousands",
    "seconds": "seconds",
    "processor_seconds": "processor seconds",
    "loss": "at w",
    "lpf": "LPF rise",
    "lpf_filter": "LPF rise, filter units",
    "mc": "MC rise",
    "eigenvalue": "largest eigenvalue",
    "training_start": "in training",
    "sampling_start": "in sampling",
    "gap_start": "size of the gap",
    "training_mean": "in training",
    "sampling_mean": "in sampling",
    "gap_mean": "size of the gap",
}
Table = tuple[list[str], list[list[str]]]


def with_error(mean: float | None, error: float | None) -> str:
    """A mean ± half of its interval: two digits of the latter, as many decimals of the former."""
    if mean is None:
        return ""
    if not error:
        return f"{mean:.4g}"
    if not 1e-7 < error < 1e4:
        return f"{mean:.3g} ± {error:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def label(row: dict) -> str:
    """What was trained, as the paper's tables name it."""
    pertub = f" + IP {row['input_pertub']:g}" if row["input_pertub"] else ""
    average = "" if row["average"] == "none" else f" + {row['average'].upper()}"
    return f"{row['gradient']}{pertub}{average}"


def quality(summary: list[dict], distance: str, floor: dict | None, about: dict[str, str]) -> Table:
    """The paper's main table, and what its rows cost. Beside each distance its limit for endless
    samples; last, real images. about: "seconds", the column to show; "samples"; "term"."""
    columns = [c for c in summary[0] if c[3:].isdigit() and c.startswith("fd_")]
    header = ["", "seeds"]
    for c in columns:
        header += [f"{distance}, {c[3:]} steps", f"{c[3:]} steps, endless samples"]
    costs = ["images", about["seconds"], "loss"]
    header += [PLAIN["images"], PLAIN[about["seconds"]], f"{about['term']} at w"]
    best = {c: min((r[c] for r in summary if r[c] is not None), default=None) for c in columns}
    rows = []
    for row in summary:
        cells = [label(row), str(row["seeds"])]
        for c in columns:
            text = _told(row, c)
            cells.append(f"**{text}**" if text and row[c] == best[c] else text)
            cells.append(_told(row, f"{c}_infinity"))
        cells.append(f"{row['images'] / 1000:.4g}")
        rows.append(cells + [_told(row, name) for name in costs[1:]])
    if floor:
        limits = [with_error(*mean_and_half(floor[k])) for k in ("values", "infinities")]
        rows.append([f"{about['samples']} {REAL}", "", *limits * len(columns), *[""] * len(costs)])
    return header, rows


def _told(row: dict, name: str) -> str:
    return with_error(row[name], row[f"{name}_half"])


def flatness(summary: list[dict], distance: str) -> Table:
    """How flat, and what it should buy first: robustness to rounding."""
    rises = [c for c in summary[0] if c.startswith("rise_w") and not c.endswith("_half")]
    told = PLAIN | {c: f"{distance} lost at {c.removeprefix('rise_w')} bits" for c in rises}
    names = ["lpf", "lpf_filter", "mc", "eigenvalue", *rises]
    rows = [[label(row), *(_told(row, name) for name in names)] for row in summary]
    return ["", *(told[name] for name in names)], rows


def exposure(summary: list[dict]) -> Table:
    """The norm of the predicted noise on real images and in sampling, and their gap."""
    names = [f"{norm}_{k}" for k in ("start", "mean") for norm in ("training", "sampling", "gap")]
    where = ["nearest t = 0: "] * 3 + ["mean of the rest: "] * 3
    rows = [[label(row), *(_told(row, name) for name in names)] for row in summary]
    return ["", *(w + PLAIN[name] for w, name in zip(where, names))], rows


def claims(verdicts: list[Verdict]) -> Table:
    header = ["claim", "verdict", "after Holm", "difference", "95 % interval", "p"]
    header += ["smallest effect it would find", "seeds", "where"]
    rows = []
    for v in verdicts:
        correlation = v.column == "r"
        interval = "" if v.low is None else f"{v.low:.3g} to {v.high:.3g}"
        estimate = f"r = {v.estimate:.2f}" if correlation else f"{v.estimate:+.3g}"
        seen = "" if v.seen is None else f"r = {v.seen:.2f}" if correlation else f"{v.seen:.2g}"
        p = "" if v.p is None else f"{v.p:.2g}"
        n = f"{v.n} trainings" if correlation else str(v.n)
        why = f": {v.why}" if v.why else ""
        rows.append([v.text, v.verdict + why, v.holm, estimate, interval, p, seen, n, v.place])
    return header, rows


def as_markdown(table: Table) -> str:
    header, rows = table
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
