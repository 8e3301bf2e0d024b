"""What a study of flatness says: rows of estimates, a table, flatness.json and csv.

A rise has two standard errors: `error` over the draws of d, at fixed images, timesteps and noise,
and `error_images` over these, image by image, at fixed draws. `error_larger` is the larger one, and
is what tables and pictures show. Networks are compared draw by draw and image by image, so that
what either does to both of them cancels.
"""

import itertools
import math
import os

import numpy as np
import torch
from torch import Tensor

from ..store import checkpoint
from ..store.disk import write_csv, writing
from ..world import logger
from . import flatness, flatness_pictures

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
                columns = {"at_w": at_w.tolist(), "moved": (at_w + rises.mean(dim=0)).tolist()}
                columns |= _estimate("rise", "error", rises, point["errors_images"][term])
                columns["relative"] = (rises.mean(dim=0) / at_w).tolist()
                images = point["minus_first_errors_images"].get(term, [math.nan] * 5)
                difference = _estimate("minus_first", "minus_first_error", rises - first, images)
                itself = first is rises
                columns |= dict.fromkeys(difference, [None] * 5) if itself else difference
                columns["at_w_error"] = model["at_w"][term]["errors"]
                rows += _by_part(start | {"term": term}, model["t_range"], columns)
    return rows


def _estimate(name: str, error: str, pairs: Tensor, images: list) -> dict[str, list[float]]:
    """Columns of [5] values: the mean of pairs [P, 5], its error over these, the error `images`,
    and the larger one."""
    mean, draws = (column.tolist() for column in flatness.mean_and_error(pairs))
    return {name: mean, error: draws, f"{error}_images": images} | {
        f"{error}_larger": [max(pair, key=_size) for pair in zip(draws, images)]
    }


def _size(error: float) -> float:
    """What is not known is larger than what is."""
    return math.inf if math.isnan(error) else error


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
    """HESSIAN: the trace, with its standard error over draws, the eigenvalues, with their
    residuals, as `error`; and for all of them `error_images` and `error_larger`."""
    rows = []
    for model in record["models"]:
        trace, error = flatness.mean_and_error(torch.tensor(model["trace"], dtype=torch.float64))
        names = ["trace", *(f"eigenvalue {i + 1}" for i in range(len(model["eigenvalues"])))]
        values = [float(trace), *model["eigenvalues"]]
        errors = [float(error), *model["residuals"]]
        images = [model["trace_error_images"], *model["eigenvalue_errors_images"]]
        for name, value, *both in zip(names, values, errors, images):
            row = {"model": model["name"], "of": model["of"], "quantity": name, "value": value}
            row |= {"error": both[0], "error_images": both[1]}
            rows.append(row | {"error_larger": max(both, key=_size)})
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
                if a == b == 0:
                    at_w = model["at_w"].items()
                    rows[-1] |= {f"{term}_error_images": x["errors"][0] for term, x in at_w}
    return rows


# Tables to read


def curve_text(rows: list[dict]) -> str:
    size = next(name for name in SIZE.values() if name in rows[0])
    whole = [row for row in rows if row["part"] == "all"]
    several = len({row["model"] for row in whole}) > 1
    blocks = [
        "+-: the larger of two standard errors, over draws of d and over images and timesteps"
        " (for L(w): over images and timesteps); both are in flatness.json and the csv"
    ]
    for term in dict.fromkeys(row["term"] for row in rows):
        header = [term, size, "||d||", "L(w)", "+-", "mean L(w+d)", "rise", "+-", "relative"]
        header += ["rise - first's", "+-"] * several
        names = ["distance", "at_w", "at_w_error", "moved", "rise", "error_larger"]
        lines = [
            [row["model"], f"{row[size]:g}", *(_number(row[name]) for name in names)]
            + [f"{100 * row['relative']:.3g} %"]
            + [_number(row[name]) for name in ("minus_first", "minus_first_error_larger")] * several
            for row in whole
            if row["term"] == term
        ]
        blocks.append(table([header, *lines]))
    return "\n\n".join([*blocks, _quarters_text(rows, size)])


def _quarters_text(rows: list[dict], size: str) -> str:
    """The rise of the headline by quarter of the timesteps, low noise first."""
    term = rows[0]["term"]
    header = [f"rise of {term} at t in", size]
    lines = {}
    for row in rows:
        if row["term"] == term and row["part"] != "all":
            line = lines.setdefault((row["model"], row[size]), [row["model"], f"{row[size]:g}"])
            line += [_number(row["rise"]), _number(row["error_larger"])]
            if len(lines) == 1:
                header += [row["timesteps"], "+-"]
    return table([header, *lines.values()])


def spectrum_text(rows: list[dict]) -> str:
    note = (
        "+-: standard error over images and timesteps, or, where that is larger: of the trace, over"
        " draws; of an eigenvalue, ||H v - lambda v||"
    )
    header = [f"Hessian of {rows[0]['of']}", "", "value", "+-"]
    lines = [
        [row["model"], row["quantity"], _number(row["value"]), _number(row["error_larger"])]
        for row in rows
    ]
    return f"{note}\n\n{table([header, *lines])}"


def surface_text(rows: list[dict]) -> str:
    """Of the headline."""
    term = next(name for name in rows[0] if name not in ("model", "a", "b"))
    header = [f"{term} on the plane", "at w", "+-", "least", "greatest"]
    lines = []
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        losses, at_w = [row[term] for row in mine], mine[len(mine) // 2]
        numbers = (at_w[term], at_w[f"{term}_error_images"], min(losses), max(losses))
        lines.append([name, *map(_number, numbers)])
    note = "+-: standard error over images and timesteps"
    return f"{note}\n\n{table([header, *lines])}"


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
