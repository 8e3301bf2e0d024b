"""The tables of a study's report: header and rows of text, for Markdown and HTML alike."""

import math

from .claims import Verdict

PLAIN = {
    "images": "images, thousands",
    "seconds": "seconds",
    "processor_seconds": "processor seconds",
    "loss": "L(w)",
    "lpf": "LPF rise",
    "mc": "MC rise",
    "eigenvalue": "largest eigenvalue",
    "gap_start": "gap nearest t = 0",
    "gap_mean": "gap over the chain",
}
Table = tuple[list[str], list[list[str]]]


def with_error(mean: float | None, error: float | None) -> str:
    """Two digits of the error, and as many decimals of the mean."""
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


def quality(summary: list[dict], distance: str, seconds: str = "seconds") -> Table:
    """The paper's main table, and what its rows cost; `seconds`: which of them."""
    columns = [c for c in summary[0] if c[3:].isdigit() and c.startswith("fd_")]
    header = ["", "seeds", *(f"{distance}, {c[3:]} steps" for c in columns)]
    header += [PLAIN[name] for name in ("images", seconds, "loss")]
    best = {c: min((r[c] for r in summary if r[c] is not None), default=None) for c in columns}
    rows = []
    for row in summary:
        cells = [label(row), str(row["seeds"])]
        for c in columns:
            text = with_error(row[c], row[f"{c}_se"])
            cells.append(f"**{text}**" if text and row[c] == best[c] else text)
        cells.append(f"{row['images'] / 1000:.4g}")
        cells += [with_error(row[name], row[f"{name}_se"]) for name in (seconds, "loss")]
        rows.append(cells)
    return header, rows


def flatness(summary: list[dict], distance: str) -> Table:
    """How flat, and what it should buy: robustness to rounding, and a small gap."""
    rises = [c for c in summary[0] if c.startswith("rise_w") and not c.endswith("_se")]
    names = ["lpf", "mc", "eigenvalue", *rises, "gap_start", "gap_mean"]
    told = PLAIN | {c: f"{distance} lost at {c.removeprefix('rise_w')} bits" for c in rises}
    rows = [
        [label(row), *(with_error(row[name], row[f"{name}_se"]) for name in names)]
        for row in summary
    ]
    return ["", *(told[name] for name in names)], rows


def claims(verdicts: list[Verdict]) -> Table:
    header = ["claim", "verdict", "difference", "95 % interval", "seeds", "where"]
    rows = []
    for v in verdicts:
        interval = "" if v.low is None else f"{v.low:.3g} to {v.high:.3g}"
        estimate = f"r = {v.estimate:.2f}" if v.column == "r" else f"{v.estimate:+.3g}"
        n = f"{v.n} models" if v.column == "r" else str(v.n)
        why = f": {v.why}" if v.why else ""
        rows.append([v.text, v.verdict + why, estimate, interval, n, v.place])
    return header, rows


def as_markdown(table: Table) -> str:
    header, rows = table
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
