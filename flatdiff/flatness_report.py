"""What a study of flatness says: rows of estimates, a table, flatness.json and csv.

An error is a standard error over the draws of d, at fixed images, timesteps and noise: how well
the mean over all d is known for these images. How far L(w) depends on the images stands apart.
Networks are compared draw by draw, so that what a draw does to both of them cancels.
"""

import itertools
import math
import os

import numpy as np
import torch
from torch import Tensor

from . import checkpoint, flatness, flatness_pictures, logger
from .disk import write_csv, writing

SIZE = {"LPF": "sigma", "MC": "radius"}
PARTS = ("all", "quarter 1", "quarter 2", "quarter 3", "quarter 4")  # of the timesteps


def write(record: dict, folder: str) -> list[str]:
    """Log the table and write all files of a study into the folder; returns their paths.

    flatness.json holds the newest study of each kind, under its name.
    """
    kind = record["settings"]["flatness"]["flatness"]
    rows = {"HESSIAN": spectrum_rows, "SURFACE": surface_rows}.get(kind, curve_rows)(record)
    logger.log({"HESSIAN": spectrum_text, "SURFACE": surface_text}.get(kind, curve_text)(rows))
    paths = [
        write_json(record | {"rows": rows}, kind, os.path.join(folder, "flatness.json")),
        write_csv(_without_nan(rows), os.path.join(folder, f"flatness_{kind}.csv")),
    ]
    if kind == "SURFACE":
        paths.append(write_arrays(record, os.path.join(folder, "flatness_SURFACE.npz")))
    return paths + flatness_pictures.draw(kind, record, rows, folder)


# Rows of estimates


def curve_rows(record: dict) -> list[dict]:
    """LPF, MC: a row for each network, size, term of the loss, and part of the timesteps.

    minus_first: the rise, minus that of the first network on the same draws; None for itself.
    """
    size = SIZE[record["settings"]["flatness"]["flatness"]]
    rows, of_first = [], {}
    for model in record["models"]:
        for point in model["curve"]:
            start = {
                "model": model["name"],
                size: point["size"],
                "distance": math.fsum(point["distances"]) / len(point["distances"]),
            }
            for term, draws in point["losses"].items():
                at_w = torch.tensor(model["at_w"][term]["losses"], dtype=torch.float64)
                rises = flatness.pairs(torch.tensor(draws, dtype=torch.float64) - at_w)
                first = of_first.setdefault((point["size"], term), rises)
                columns = _estimates(at_w, rises, rises - first)
                if first is rises:
                    columns |= dict.fromkeys(("minus_first", "minus_first_error"), [None] * 5)
                columns["at_w_error"] = model["at_w"][term]["errors"]
                rows += _by_part(start | {"term": term}, model["t_range"], columns)
    return rows


def _estimates(at_w: Tensor, rises: Tensor, differences: Tensor) -> dict[str, list[float]]:
    """Columns of [5] values, from at_w [5] and pairs of rises and differences [P, 5]."""
    rise, error = flatness.mean_and_error(rises)
    difference, difference_error = flatness.mean_and_error(differences)
    columns = {
        "at_w": at_w,
        "moved": at_w + rise,
        "rise": rise,
        "error": error,
        "relative": rise / at_w,
        "minus_first": difference,
        "minus_first_error": difference_error,
    }
    return {name: column.tolist() for name, column in columns.items()}


def _by_part(start: dict, t_range: int, columns: dict[str, list]) -> list[dict]:
    edges = [-(-t_range * q // 4) for q in range(5)]
    ranges = [(0, t_range), *itertools.pairwise(edges)]
    return [
        start
        | {"part": part, "timesteps": f"{low}..{high - 1}" if low < high else ""}
        | {name: column[i] for name, column in columns.items()}
        for i, (part, (low, high)) in enumerate(zip(PARTS, ranges))
    ]


def spectrum_rows(record: dict) -> list[dict]:
    """HESSIAN: the trace with its standard error, the eigenvalues with their residuals."""
    rows = []
    for model in record["models"]:
        trace, error = flatness.mean_and_error(torch.tensor(model["trace"], dtype=torch.float64))
        values = [("trace", float(trace), float(error))]
        for i, pair in enumerate(zip(model["eigenvalues"], model["residuals"]), 1):
            values.append((f"eigenvalue {i}", *pair))
        start = {"model": model["name"], "of": model["of"]}
        rows += [start | dict(zip(("quantity", "value", "error"), row)) for row in values]
    return rows


def surface_rows(record: dict) -> list[dict]:
    """SURFACE: the loss at each point; a and b are steps along the two directions."""
    rows = []
    for model in record["models"]:
        axis = model["axis"]
        for i, a in enumerate(axis):
            for j, b in enumerate(axis):
                losses = {term: plane[i][j][0] for term, plane in model["plane"].items()}
                rows.append({"model": model["name"], "a": a, "b": b} | losses)
    return rows


# Tables to read


def curve_text(rows: list[dict]) -> str:
    size = next(name for name in SIZE.values() if name in rows[0])
    whole = [row for row in rows if row["part"] == "all"]
    several = len({row["model"] for row in whole}) > 1
    blocks = [
        "+-: standard error over draws of d, at fixed images, timesteps and noise"
        " (for L(w): over images)"
    ]
    for term in dict.fromkeys(row["term"] for row in rows):
        header = [term, size, "||d||", "L(w)", "+-", "mean L(w+d)", "rise", "+-", "relative"]
        header += ["rise - first's", "+-"] * several
        names = ["distance", "at_w", "at_w_error", "moved", "rise", "error"]
        lines = [
            [row["model"], f"{row[size]:g}", *(_number(row[name]) for name in names)]
            + [f"{100 * row['relative']:.3g} %"]
            + [_number(row[name]) for name in ("minus_first", "minus_first_error")] * several
            for row in whole
            if row["term"] == term
        ]
        blocks.append(table([header, *lines]))
    return "\n\n".join([*blocks, _quarters_text(rows, size)])


def _quarters_text(rows: list[dict], size: str) -> str:
    """The rise of the loss by quarter of the timesteps, low noise first."""
    header = ["rise of loss at t in", size]
    lines = {}
    for row in rows:
        if row["term"] == "loss" and row["part"] != "all":
            line = lines.setdefault((row["model"], row[size]), [row["model"], f"{row[size]:g}"])
            line += [_number(row["rise"]), _number(row["error"])]
            if len(lines) == 1:
                header += [row["timesteps"], "+-"]
    return table([header, *lines.values()])


def spectrum_text(rows: list[dict]) -> str:
    note = "+-: of the trace, its standard error over draws; of an eigenvalue, ||H v - lambda v||"
    header = [f"Hessian of {rows[0]['of']}", "", "value", "+-"]
    lines = [
        [row["model"], row["quantity"], _number(row["value"]), _number(row["error"])]
        for row in rows
    ]
    return f"{note}\n\n{table([header, *lines])}"


def surface_text(rows: list[dict]) -> str:
    header = ["loss on the plane", "at w", "least", "greatest"]
    lines = []
    for name in dict.fromkeys(row["model"] for row in rows):
        losses = [row["loss"] for row in rows if row["model"] == name]
        at_w = losses[len(losses) // 2]
        lines.append([name, *map(_number, (at_w, min(losses), max(losses)))])
    return table([header, *lines])


def table(rows: list[list[str]]) -> str:
    """Aligned text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    )


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


# Files


def write_json(study: dict, kind: str, path: str) -> str:
    """Put the study under its kind into the file, beside those of other kinds."""
    known = checkpoint.load_json(path) if checkpoint.exists(path) else {}
    checkpoint.save_json(_without_nan(known | {kind: study}), path)
    return path


def write_arrays(record: dict, path: str) -> str:
    """axis [P], and for each network `NAME/TERM` [P, P, 5]; of a line, `line/TERM` [A, 5]."""
    arrays = {"axis": record["models"][0]["axis"]}
    for model in record["models"]:
        arrays |= {f"{model['name']}/{term}": plane for term, plane in model["plane"].items()}
    if record.get("line"):
        arrays["alphas"] = record["line"]["alphas"]
        arrays |= {f"line/{term}": v for term, v in record["line"]["losses"].items()}
    with writing(path) as file:
        np.savez(file, **{name: np.array(values) for name, values in arrays.items()})
    return path


def _without_nan(value):
    """JSON has no nan: a mean over no image is null, and an empty cell."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
