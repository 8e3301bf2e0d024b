"""What the cells of a study say: a row of plain numbers for each model, and means over seeds.

A number that is not there yet, that cannot be, or that is not finite, is None.
"""

import math
import re
from collections.abc import Iterable
from itertools import pairwise

from ..flags.choices import MEASURES, Column, Measure
from ..judge.names import metric_name
from ..measure.chains import EDGES
from ..measure.exposure_report import UNDERFIT
from .matrix import Cell, Model
from .significance import half_width

# of a kind of model, whose seeds are repetitions
KIND = ("objective", "gradient", "climbs", "matched", "input_pertub", "average")
NAMES = (*KIND, "seed")
COSTS = ("steps", "images", "seconds", "processor_seconds")
ENDS = ("", "_error", "_infinity")  # of the names of distances
LEVELS = [f"{low:g}..{high:g}" for high, low in pairwise(EDGES)]  # of log-SNR, least noise first
WHOLE = f"{EDGES[-1]:g}..{EDGES[0]:g}"
X_MSE = {  # by the begin of a column's name: the cell of LPF, and what its rows call it
    "x_mse": ("LPF", "at_w"),
    "x_rise": ("LPF", "rise"),
    "x_rise_filter": ("LPF filter", "rise"),
}


def rows_of(models: list[Model]) -> list[dict]:
    """A row for each model whose training is done. Its columns:

    images: those that a gradient was taken of; seconds, processor_seconds: of the training.
    fd_STEPS and fd_STEPS_wBITS with _error and _infinity: Frechet distances; rise_wBITS: the second
    less the first; fd_STEPS_atSTEP: of an earlier checkpoint, where there are such; copies: the
    share that lies nearer to images trained on than those held out, where there are such. Then
    the columns of the registry's measures. In a study of several objectives, calls_STEPS: of the
    network for an image; and of X_MSE, NAME and NAME_LEVELS. A sampler that is not the first stands
    behind STEPS.
    """
    rows = [_row(model) for model in models if model.training.cell.result()]
    names = dict.fromkeys(name for row in rows for name in row)
    return [{n: row.get(n) if _finite(row.get(n)) else None for n in names} for row in rows]


def not_finite(models: list[Model]) -> list[str]:
    """Names, in words, each number that `rows_of` left out because it is none."""
    rows = ((m.name, _row(m)) for m in models if m.training.cell.result())
    return [f"{k} of {name}" for name, row in rows for k, v in row.items() if not _finite(v)]


def _finite(value) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _row(model: Model) -> dict:
    t, trained = model.training, model.training.cell.result()
    about = model.kind | {"climbs": t.climbs, "matched": t.matched, "seed": t.seed}
    row = {name: about[name] for name in NAMES} | {"steps": t.steps, "images": t.cost}
    row |= {name: trained.get(name) for name in ("seconds", "processor_seconds")}
    for name in (name for name in model.cells if name.startswith("fd_")):
        found = model.cells[name].result() or {"features": "", "metrics": {}}
        metric, values = metric_name(found["features"]), found["metrics"]
        row |= {f"{name}{end}": values.get(f"{metric}{end}") for end in ENDS}
    row |= {f"calls_{name.removeprefix('fd_')}": n for name, n in model.calls.items()}
    row |= _quantized(row) | earlier(model) | _copies(model) | measured(model)
    return row | (by_level(model) if t.objective else {})


def _quantized(row: dict) -> dict:
    """The loss to rounding: of each fd_STEPS_wBITS, over its fd_STEPS."""
    found = {}
    for name in [n for n in row if n.startswith("fd_") and n.rpartition("_w")[2].isdigit()]:
        before, _, bits = name.partition("_w")
        known = None not in (row[name], row[before])
        found[f"rise_w{bits}"] = row[name] - row[before] if known else None
    return found


def _copies(model: Model) -> dict[str, float | None]:
    if "copies" not in model.cells:
        return {}
    return {"copies": _metric(model.cells["copies"], "nearer")}


def _metric(cell: Cell, kind: str = "FID") -> float | None:
    found = cell.result() or {"features": "", "metrics": {}}
    return found["metrics"].get(metric_name(found["features"], kind))


def earlier(model: Model) -> dict[str, float | None]:
    """The first of the model's distances, at the checkpoints before its last, in their order."""
    first, found = next((name for name in model.cells if name.startswith("fd_")), ""), {}
    for name in [name for name in model.cells if re.fullmatch(r"again_[1-9]\d*_0", name)]:
        step = model.cells[name.replace("again", "drawn")].made_of["step"]
        found[f"{first}_at{step}"] = _metric(model.cells[name])
    return dict(reversed(found.items()))


def steps_of(row: dict) -> dict[int, str]:
    """The columns of `earlier` by step, and last the distance that they lead to by "steps"."""
    at = [re.fullmatch(r"(fd_\d+)_at(\d+)", name) for name in row]
    found = {int(m[2]): m[0] for m in at if m and row[m[0]] is not None}
    column = next((m[1] for m in at if m), "")
    return found | {int(row["steps"]): column} if found else {}


def record_of(model: Model, kind: str, cell: str) -> dict | None:
    """What a measure says of the model: its item of the json that the cell's script left, with
    what the json says of all models beside; None where it is not there."""
    found = model.cells[cell].result() if cell in model.cells else None
    found = found and found.get(kind, found)
    return found and {**found, **found["models"][0]}


def measured(model: Model) -> dict[str, float | None]:
    """The columns of all measures, by name."""
    row = {}
    for kind, measure in measures_of().items():
        if measure.asked and not measure.cells.keys() & model.cells.keys():
            continue
        records = {cell: record_of(model, kind, cell) for cell in measure.cells}
        shown = {cell: measure.load().shown(record) for cell, record in records.items() if record}
        for name, column in measure.columns.items():
            row[name] = shown.get(column.cell, {}).get(column.value)
    return row


def by_level(model: Model) -> dict[str, float | None]:
    """The error of the image, and its rises at the middle sigma: over all of log-SNR, and by part.
    None for cells of before it was measured."""
    found = {}
    for name, (cell, value) in X_MSE.items():
        record = record_of(model, "LPF", cell) or {}
        rows = [row for row in record.get("rows", ()) if row["term"] == "x_mse"]
        sizes = sorted({row["sigma"] for row in rows})
        middle = [row for row in rows if row["sigma"] == sizes[len(sizes) // 2]]
        known = {row["part"].removeprefix("log-SNR "): row[value] for row in middle}
        found |= {c: known.get(part) for c, part in zip(of_levels(name), ("all", *LEVELS))}
    return found


def of_levels(name: str) -> list[str]:
    """The columns of all log-SNR and of its parts."""
    return [name, *(f"{name}_{part}" for part in LEVELS)]


def distances(row: dict) -> list[str]:
    """The columns of distances of unrounded networks."""
    ours = (name for name in row if name.startswith("fd_") and f"{name}_infinity" in row)
    return [name for name in ours if not re.search(r"_w\d+$", name)]


def measures_of(verb: str = "") -> dict[str, Measure]:
    """The measures, or those that one command runs."""
    return {name: m for name, m in MEASURES.items() if m.cells and verb in ("", m.verb)}


def columns_of(verb: str = "") -> dict[str, Column]:
    """Gives the columns of these measures, by name."""
    return {k: column for m in measures_of(verb).values() for k, column in m.columns.items()}


def underfits(row: dict, where: str) -> bool:
    """Whether the norm in training is far below the noise's; where: "start" or "mean"."""
    norm, noise = row.get(f"training_{where}"), row.get("noise_norm")
    return None not in (norm, noise) and norm < UNDERFIT * noise


def mean_and_half(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """The mean, and half of its 95 % interval; None for what there are too few values for."""
    known = [v for v in values if v is not None]
    return (math.fsum(known) / len(known) if known else None), half_width(known)


def summary(rows: list[dict]) -> list[dict]:
    """A row for each kind of model: every column's mean over seeds, NAME_half (of the mean's 95 %
    interval), and "seeds", those that have a measurement."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KIND), []).append(row)
    table = []
    for kind, group in groups.items():
        line = dict(zip(KIND, kind)) | {"seeds": sum(map(_measured, group))}
        for name in (name for name in rows[0] if name not in NAMES):
            line[name], line[f"{name}_half"] = mean_and_half(row[name] for row in group)
        table.append(line)
    return table


def _measured(row: dict) -> bool:
    return any(v is not None for name, v in row.items() if name not in (*NAMES, *COSTS))


def paired(rows: list[dict], a: dict, b: dict, column: str) -> list[float]:
    """Subtracts, by seed, the column of `b`'s row from that of the row with the values of `a`.
    Seeds that lack a value are left out."""
    known = [row for row in rows if row.get(column) is not None]
    first, second = (
        {row["seed"]: row[column] for row in known if row.items() >= side.items()}
        for side in (a, b)
    )
    return [first[seed] - second[seed] for seed in first if seed in second]
