"""Rows, tables and the picture of the bench of exposure bias, of its record alone."""

import numpy as np

from ..report.figures import colours, save
from ..report.text import table
from ..store import checkpoint
from ..store.disk import write_csv
from ..world import logger
from . import frame
from .frame import number

BAND = 1.96  # standard errors to either side


def rows(record: dict) -> list[dict]:
    """A row for each model, number of bits and of steps, and way to sample."""
    return [{"model": m["name"], **cell} for m in record["models"] for cell in m["cells"]]


def scaling_rows(record: dict) -> list[dict]:
    """A row for each model, bits and steps: the scaling by the norm, by distance, and how far the
    second is from the first."""
    return [
        {"model": m["name"], "bits": best["bits"], "steps": best["steps"]}
        | {
            f"{name}{end}": best[name][kind]
            for name in ("norm", "distance", "difference")
            for kind, end in (
                ("value", ""),
                ("error", "_error"),
                ("low", "_low"),
                ("high", "_high"),
            )
        }
        | {"smallest_seen": best["difference"]["seen"], "verdict": best["verdict"]}
        for m in record["models"]
        for best in m["scalings"]
    ]


def write(record: dict, begin: str, kind: str = "png") -> list[str]:
    """Log both tables; write .json, .csv, _scalings.csv and a picture of `kind`; their paths."""
    logger.log(text(record))
    checkpoint.save_json(record, f"{begin}.json")
    paths = [f"{begin}.json", write_csv(record["rows"], f"{begin}.csv")]
    paths.append(write_csv(scaling_rows(record), f"{begin}_scalings.csv"))
    return [*paths, save(picture(record), begin, kind, dpi=frame.DPI)]


def text(record: dict) -> str:
    """Write both tables, and how to read them."""
    told = []
    for found in (record["rows"], scaling_rows(record)):
        columns = list(dict.fromkeys(column for row in found for column in row))
        lines = [[_cell(row.get(c)) for c in columns] for row in found]
        told.append(table([[c.replace("_", " ") for c in columns], *lines]))
    return "\n\n".join(told) + (
        f"\nfd: {record['metric']}. gap: ||eps|| along the chain less that in training, in shares "
        "of the noise's norm, mean over steps. Errors over images, paired where they are less "
        "plain; seen: the smallest difference that four of five such pairs would show. norm: the "
        "scaling of no gap, or of the least; distance: that of the least; low and high: 95 %"
    )


def _cell(value) -> str:
    return "unknown" if value == "" else number(value)  # a verdict without an error


def picture(record: dict):
    """Distance and gap against the scaling, a column for each number of steps; the scaling that
    each criterion finds, with its interval, below."""
    models = record["models"]
    steps = list(dict.fromkeys(row["steps"] for row in record["rows"]))
    figure, axes = frame.panels(3 * len(steps), most=len(steps))
    axes = np.reshape(axes, (3, len(steps)))
    kinds = list(dict.fromkeys((m["name"], c["bits"]) for m in models for c in m["cells"]))
    look = list(colours(kinds).values())
    for column, count in zip(axes.T, steps):
        for i, kind in enumerate(kinds):
            _draw(column, record, count, kind, (i, len(kinds), look[i]))
        column[0].set(title=f"{count} steps", ylabel=record["metric"])
        column[1].set(ylabel="gap of ‖eps‖ / ‖noise‖")
        column[1].axhline(0, color="0.6", linewidth=0.8)
        for axis in column[:2]:
            axis.set(xlabel="scaling: eps is divided by it")
        column[2].set(xlabel="scaling found by ○ norm, ■ distance")
        column[2].set_yticks([])
    frame.legend(figure, axes[0, 0], "bars: 95 %; dotted: time shift")
    return figure


def _draw(column, record: dict, steps: int, kind: tuple, place: tuple) -> None:
    (name, bits), (i, count, colour) = kind, place
    model = next(m for m in record["models"] if m["name"] == name)
    cells = [c for c in model["cells"] if (c["bits"], c["steps"]) == (bits, steps)]
    scan = sorted((_scaling(c["way"]), c) for c in cells if c["way"] != "time shift")
    x = [value for value, _ in scan]
    look = {"color": colour, "label": _name(*kind), "capsize": 2, "marker": "o", "markersize": 3}
    for axis, what in zip(column, ("fd", "gap")):
        errors = [BAND * (c[f"{what}_error"] or 0) for _, c in scan]
        axis.errorbar(x, [c[what] for _, c in scan], errors, **look)
        shifted = next(c for c in cells if c["way"] == "time shift")
        axis.axhline(shifted[what], color=colour, linestyle=":", linewidth=1)
    best = next(b for b in model["scalings"] if (b["bits"], b["steps"]) == (bits, steps))
    for criterion, marker, aside in (("norm", "o", -0.12), ("distance", "s", 0.12)):
        found = best[criterion]
        if found["value"] is not None:
            half = (found["high"] - found["low"]) / 2 if found["low"] is not None else 0
            filled = {"markerfacecolor": "none"} if criterion == "norm" else {}
            how = {"color": colour, "marker": marker, "capsize": 2} | filled
            column[2].errorbar(found["value"], i + aside, xerr=half, **how)
    column[2].axvline(1, color="0.6", linewidth=0.8)
    column[2].set_ylim(count - 0.5, -0.5)


def _scaling(way: str) -> float:
    return float(way.rpartition(" ")[2]) if "/" in way else 1.0


def _name(model: str, bits: int) -> str:
    return f"{model}, {bits} bits" if bits < 32 else model
