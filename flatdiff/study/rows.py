"""What the cells of a study say: a row of plain numbers for each model, and means over seeds.

A number that is not there yet, that cannot be, or that is not finite, is None.
"""

import math
from collections.abc import Iterable

from ..measure.exposure_report import UNDERFIT
from .matrix import Model
from .significance import half_width

NAMES = ("gradient", "climbs", "matched", "input_pertub", "average", "seed")
COSTS = ("steps", "images", "seconds", "processor_seconds")


def rows_of(models: list[Model]) -> list[dict]:
    """A row for each model whose training is done. Its columns:

    fd_STEPS and fd_STEPS_wBITS with _error and _infinity: Frechet distances; rise_wBITS: the second
    less the first. loss: L(w). lpf, lpf_filter, mc: its rise at the middle sigma or radius;
    eigenvalue: the largest. gap_start, gap_mean: size of the epsilon-norm gap at the step nearest
    t = 0, and its mean over the others; training_ and sampling_start and _mean: the two norms, and
    noise_norm: that of the noise itself. images: those that a gradient was taken of; seconds,
    processor_seconds.
    """
    return [
        {name: value if _finite(value) else None for name, value in _row(model).items()}
        for model in models
        if model.training.cell.result()
    ]


def not_finite(models: list[Model]) -> list[str]:
    """In words, each number that `rows_of` left out because it is none."""
    return [
        f"{name} of {model.name}"
        for model in models
        if model.training.cell.result()
        for name, value in _row(model).items()
        if not _finite(value)
    ]


def _finite(value) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _row(model: Model) -> dict:
    t, trained = model.training, model.training.cell.result()
    row = {
        "gradient": t.gradient,
        "climbs": t.climbs,
        "matched": t.matched,
        "input_pertub": t.input_pertub,
        "average": model.average,
        "seed": t.seed,
        "steps": t.steps,
        "images": t.cost,
        "seconds": trained.get("seconds"),
        "processor_seconds": trained.get("processor_seconds"),
    }
    results = {name: cell.result() or {} for name, cell in model.cells.items()}
    for name in (n for n in results if n.startswith("fd_")):
        found = results[name]
        infinity = found.get("metrics", {}).get(f"{found.get('name')}_infinity")
        row |= {
            name: found.get("value"),
            f"{name}_error": found.get("error"),
            f"{name}_infinity": infinity,
        }
    return row | _flatness(results) | _quantized(row) | _exposure(results["exposure"])


def _flatness(results: dict) -> dict:
    lpf, filterwise, mc = (middle(results[name]) for name in ("LPF", "LPF filter", "MC"))
    eigenvalues = results["HESSIAN"].get("eigenvalues") or [None]
    return {
        "loss": lpf.get("at_w"),
        "lpf": lpf.get("rise"),
        "lpf_filter": filterwise.get("rise"),
        "mc": mc.get("rise"),
        "eigenvalue": eigenvalues[0],
    }


def _quantized(row: dict) -> dict:
    """The loss to rounding: of each fd_STEPS_wBITS, over its fd_STEPS."""
    found = {}
    for name in [n for n in row if n.startswith("fd_") and n.rpartition("_w")[2].isdigit()]:
        before, _, bits = name.partition("_w")
        known = None not in (row[name], row[before])
        found[f"rise_w{bits}"] = row[name] - row[before] if known else None
    return found


def _exposure(result: dict) -> dict:
    """Both norms and the size of their gap: at the step nearest t = 0, and the mean of the rest."""
    found = {"noise_norm": result.get("noise_norm")}
    for name in ("training", "sampling", "gap"):
        values = (result.get(name) or {}).get("value") or []
        values = [abs(v) if v is not None else math.nan for v in values]
        rest = values[1:]
        found[f"{name}_start"] = values[0] if values else None
        found[f"{name}_mean"] = math.fsum(rest) / len(rest) if rest else None
    return found


def underfits(row: dict, where: str) -> bool:
    """Whether the norm in training is far below the noise's; where: "start" or "mean"."""
    norm, noise = row.get(f"training_{where}"), row.get("noise_norm")
    return None not in (norm, noise) and norm < UNDERFIT * noise


def middle(result: dict) -> dict:
    """The point of a curve's middle size, in ascending order; of two, the larger."""
    curve = result.get("curve") or [{}]
    return curve[len(curve) // 2]


# Over seeds


def mean_and_half(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """The mean, and half of its 95 % interval; None for what there are too few values for."""
    known = [v for v in values if v is not None]
    return (math.fsum(known) / len(known) if known else None), half_width(known)


def kind_of(row: dict) -> tuple:
    """What seeds are repetitions of."""
    return tuple(row[name] for name in NAMES if name != "seed")


def summary(rows: list[dict]) -> list[dict]:
    """A row for each kind of model: every column's mean over seeds, NAME_half (of the mean's 95 %
    interval), and "seeds", those that have a measurement."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(kind_of(row), []).append(row)
    columns = [name for name in (rows[0] if rows else ()) if name not in NAMES]
    table = []
    for kind, group in groups.items():
        line = dict(zip([n for n in NAMES if n != "seed"], kind)) | {
            "seeds": sum(map(_measured, group))
        }
        for name in columns:
            line[name], line[f"{name}_half"] = mean_and_half(row[name] for row in group)
        table.append(line)
    return table


def _measured(row: dict) -> bool:
    return any(v is not None for name, v in row.items() if name not in (*NAMES, *COSTS))


def paired(rows: list[dict], a: dict, b: dict, column: str) -> list[float]:
    """By seed: the column of the row that has the values of `a`, less that of `b`'s row.

    Seeds that lack a value are left out.
    """
    first, second = (
        {
            row["seed"]: row[column]
            for row in rows
            if row.get(column) is not None and all(row[k] == v for k, v in picked.items())
        }
        for picked in (a, b)
    )
    return [first[seed] - second[seed] for seed in first if seed in second]
