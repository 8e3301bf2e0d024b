"""What is told of the averages of a run or two: tables, a picture, files."""

import os

import numpy as np
from matplotlib.figure import Figure

from ..report.figures import colours, save
from ..report.text import table
from ..store import checkpoint, disk
from ..world import logger
from . import frame
from .frame import number

PANELS = {
    "fd": "Frechet distance of samples",
    "lpf": "LPF: rise of the loss under weight noise",
    "eigenvalue": "largest eigenvalue of the Hessian",
    "rounded": "loss at rounded weights",
}
MARKERS = {"last": "*", "posthoc": "o", "ema": "^", "uniform": "D", "lawa": "s", "soup": "P"}
WIDTH = "width of the average (standard deviation), share of all steps"


def write(record: dict, folder: str, kind: str = "png") -> list[str]:
    """Log the tables and the answers, and write averages.json, .csv and a picture of `kind`;
    returns paths."""
    logger.log(text(record))
    begin = os.path.join(folder, "averages")
    checkpoint.save_json(frame.without_nan(record), f"{begin}.json")
    paths = [f"{begin}.json", disk.write_csv(frame.without_nan(record["averages"]), f"{begin}.csv")]
    if record.get("comparisons"):
        paths.append(disk.write_csv(record["comparisons"], f"{begin}_compared.csv"))
    if "lpf" in record["averages"][0]:
        paths.append(save(figure(record), begin, kind, dpi=frame.DPI))
    return paths


def text(record: dict) -> str:
    """Write the averages, how the last weights differ from the best, and the answers."""
    rows = record["averages"]
    shown = [name for name in ("loss", *PANELS) if name in rows[0]]
    heads = [h for name in shown for h in (_head(name, record), "+-")]
    lines = [["average", "width", *heads, "residual", "off online"]]
    for row in rows:
        cells = [number(row[k]) for name in shown for k in (name, f"{name}_error")]
        ends = [number(row[k]) for k in ("width", "residual", "off_online")]
        lines.append([f"{row['run']} {row['average']}", ends[0], *cells, *ends[1:]])
    blocks = [table(lines)]
    if compared := record.get("comparisons"):
        heads = ["last weights less", "", "difference", "+-", "low", "high"]
        told = [
            [f"{r['against_run']} {r['against']}", _head(r["quantity"], record)]
            + [number(r[k]) for k in ("difference", "error", "low", "high")]
            for r in compared
        ]
        blocks.append(table([heads, *told]))
    return "\n\n".join([*blocks, *record.get("answers", [])])


def _head(name: str, record: dict) -> str:
    bits = record["settings"]["averages"]["bits"]
    told = {"fd": "FD", "lpf": "LPF", "rounded": f"loss, {bits} bits"}
    return told.get(name, name)


def figure(record: dict) -> Figure:
    """Draw each measure against the width of the average: a colour a run, a marker a kind."""
    made, axes = frame.panels(len(PANELS))
    rows, bits = record["averages"], record["settings"]["averages"]["bits"]
    look = colours(row["run"] for row in rows)
    for axis, (name, label) in zip(axes, PANELS.items()):
        for run, colour in look.items():
            _draw(axis, name, colour, [row for row in rows if row["run"] == run])
        axis.set(xlabel=WIDTH, ylabel=label.replace("rounded weights", f"{bits} bits a weight"))
        values = [row[name] for row in rows]
        if min(values) > 0 and max(values) > 10 * min(values):
            axis.set_yscale("log")
    frame.legend(made, axes[0], "bars: one standard error to each side")
    return made


def _draw(axis, name: str, colour: str, rows: list[dict]) -> None:
    kinds = dict.fromkeys(row["average"].split()[0] for row in rows)
    for kind in kinds:
        mine = [row for row in rows if row["average"].split()[0] == kind]
        mine.sort(key=lambda row: row["width"])
        x, y, error = (np.array([row[k] for row in mine]) for k in ("width", name, f"{name}_error"))
        look = {"marker": MARKERS[kind], "color": colour, "capsize": 2, "markersize": 5}
        look |= {"linestyle": "-" if kind in ("posthoc", "ema") else "none"}
        look |= {"linewidth": 1.2, "elinewidth": 0.8}
        look |= {"last": {"markersize": 11}, "soup": {"markersize": 9, "mfc": "none"}}.get(kind, {})
        axis.errorbar(x, y, yerr=error, label=f"{rows[0]['run']}: {kind}", **look)
