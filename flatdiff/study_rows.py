"""What the cells of a study say: a row of plain numbers for each model, and means over seeds.

A number that is not there yet, or cannot be, is None.
"""

import math
from collections.abc import Iterable

from .study import Model

NAMES = ("gradient", "climbs", "twice", "input_pertub", "average", "seed")
COSTS = ("steps", "images", "seconds", "processor_seconds")


def rows_of(models: list[Model]) -> list[dict]:
    """A row for each model whose training is done. Its columns:

    fd_STEPS and fd_STEPS_wBITS with _error: Frechet distances; rise_wBITS: the second less the
    first. loss: L(w). lpf, mc: rise of the loss at the middle sigma or radius; eigenvalue: the
    largest. gap_start, gap_mean: size of the epsilon-norm gap at the step nearest t = 0, and its
    mean over the chain. images: those that a gradient was taken of; seconds, processor_seconds.
    """
    return [_row(model) for model in models if model.training.cell.result()]


def _row(model: Model) -> dict:
    t = model.training
    row = {
        "gradient": t.gradient,
        "climbs": t.climbs,
        "twice": t.twice,
        "input_pertub": t.input_pertub,
        "average": model.average,
        "seed": t.seed,
        "steps": t.steps,
        "images": t.cost,
        "seconds": t.cell.result()["seconds"],
        "processor_seconds": t.cell.result()["processor_seconds"],
    }
    results = {name: cell.result() for name, cell in model.cells.items()}
    for name in (n for n in results if n.startswith("fd_")):
        row |= {name: _of(results[name], "value"), f"{name}_error": _of(results[name], "error")}
    row |= _flatness(results) | _quantized(row)
    gaps = (results["exposure"] or {}).get("gap", {}).get("value")
    row["gap_start"] = gaps and abs(gaps[0])
    row["gap_mean"] = gaps and math.fsum(map(abs, gaps)) / len(gaps)
    return row


def _of(result: dict | None, name: str):
    return result and result[name]


def _flatness(results: dict) -> dict:
    lpf, mc, hessian = (results[kind] for kind in ("LPF", "MC", "HESSIAN"))
    return {
        "loss": lpf and middle(lpf["curve"])["at_w"],
        "lpf": lpf and middle(lpf["curve"])["rise"],
        "mc": mc and middle(mc["curve"])["rise"],
        "eigenvalue": hessian and hessian["eigenvalues"][0],
    }


def _quantized(row: dict) -> dict:
    """The loss to rounding: of each fd_STEPS_wBITS, over its fd_STEPS."""
    found = {}
    for name in [n for n in row if n.startswith("fd_") and "_w" in n and "error" not in n]:
        before, _, bits = name.partition("_w")
        known = None not in (row[name], row[before])
        found[f"rise_w{bits}"] = row[name] - row[before] if known else None
    return found


def middle(curve: list[dict]) -> dict:
    """Of sizes in ascending order; of two, the larger."""
    return curve[len(curve) // 2]


# Over seeds


def mean_and_error(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """The mean, and its standard error; None for what there are too few values for."""
    known = [v for v in values if v is not None]
    n = len(known)
    if not n:
        return None, None
    mean = math.fsum(known) / n
    if n == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (n - 1) / n)


def kind_of(row: dict) -> tuple:
    """What seeds are repetitions of."""
    return tuple(row[name] for name in NAMES if name != "seed")


def summary(rows: list[dict]) -> list[dict]:
    """A row for each kind of model: every column's mean over seeds, NAME_se, and "seeds", those
    that have a measurement."""
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
            line[name], line[f"{name}_se"] = mean_and_error(row[name] for row in group)
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
