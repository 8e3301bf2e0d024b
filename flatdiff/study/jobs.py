"""What a job of a study does: the cells of one job file, each by the function of its own script.

A cell's folder is locked while it is worked on, so that a study that was killed and begun again, or
two studies with one store, do not write the same files. Its result.json is written last.
"""

import contextlib
import fcntl
import glob
import os
import time

from ..flags import config
from ..measure import evaluation, exposure_run, flatness_run
from ..measure.exposure_report import CURVES
from ..measure.flatness_report import curve_rows
from ..models import run_util
from ..store import checkpoint, disk
from ..world import dist_util
from .matrix import GROUPS, RESULT, Cell, read_result


def write(cells: list[Cell], name: str, path: str) -> None:
    """The job file of these cells; distances come after their samples."""
    content = [
        {"kind": c.kind, "folder": c.folder, "flags": c.flags, "made_of": c.made_of} for c in cells
    ]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    checkpoint.save_json({"name": name, "cells": content}, path)


def work(path: str, train, sample) -> None:
    """Do what the job file says. `train`, `sample`: bodies of image_train.py and image_sample.py.

    What is done already is left as it is.
    """
    bodies = {
        "train": lambda cell, flags: _train(cell, flags, train),
        "samples": lambda cell, flags: _samples(cell, flags, sample),
        "distance": _distance,
        "LPF": _curve,
        "MC": _curve,
        "HESSIAN": _spectrum,
        "exposure": _exposure,
        "floor": _floor,
    }
    for cell in _cells(path, bodies):
        with _locked(cell["folder"]):
            known = dist_util.broadcast_object(read_result(cell["folder"]))
            if known is None:
                _do(cell, bodies[cell["kind"]])


def _cells(path: str, kinds) -> list[dict]:
    with disk.reading(path):
        cells = checkpoint.load_json(path)["cells"]
        for cell in cells:
            types = [type(cell[name]) for name in ("folder", "flags")]
            if cell["kind"] not in kinds or types != [str, dict]:
                raise ValueError(f"this is no cell of a study: {cell!r:.80}")
    return cells


def _do(cell: dict, body) -> None:
    if dist_util.rank() == 0:
        checkpoint.save_json(cell, os.path.join(cell["folder"], "cell.json"))
    result = body(cell, _flags(cell))
    if dist_util.rank() == 0:
        checkpoint.save_json(result, os.path.join(cell["folder"], RESULT))


@contextlib.contextmanager
def _locked(folder: str):
    """Rank 0 holds the folder's lock, which ends with its process at the latest."""
    if dist_util.rank() > 0:
        yield
        return
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def command_line(cell: dict) -> list[str]:
    """The flags of the cell's script."""
    flags = cell["flags"] | {"log_dir": cell["folder"]}
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]


def _flags(cell: dict):
    return config.parse("", command_line(cell), **GROUPS[cell["kind"]])


# What each kind does; the results are plain values


def _train(cell, flags, train) -> dict:
    """Seconds are of all steps, at the pace of those done here: a run may have been killed.

    Those of the processor are rank 0's, and say more where jobs share cores.
    """
    steps = flags.train.end_step
    done_here = steps - max(checkpoint.complete_steps(cell["folder"]), default=0)
    wall, processor = time.monotonic(), time.process_time()
    train(flags)
    scale = steps / max(1, done_here)
    return {
        "seconds": (time.monotonic() - wall) * scale,
        "processor_seconds": (time.process_time() - processor) * scale,
        "steps_timed": done_here,
    }


def _samples(cell, flags, sample) -> dict:
    sample(flags)
    return {"num_samples": flags.sample.num_samples}


def samples_in(folder: str) -> str:
    return glob.glob(os.path.join(glob.escape(folder), "samples_*x3*.npz"))[0]


def _distance(cell, flags) -> dict | None:
    if dist_util.rank() > 0:
        return None
    measure = evaluation.measure_by(flags.features.features, flags.features.inception_weights)
    samples = f"{os.path.dirname(cell['folder'])}/samples-{cell['made_of']['samples']}"
    found = measure(_reference(flags), samples_in(samples))
    name = evaluation.distance_name(flags.features.features)
    metrics = found["metrics"]
    return {"name": name, "value": metrics.get(name), "error": metrics.get(f"{name}_error")} | found


def _floor(cell, flags) -> dict | None:
    """Of as many real images as there are samples."""
    if dist_util.rank() > 0:
        return None
    floor = evaluation.floor_by(flags.features.features, flags.features.inception_weights)
    return floor(_reference(flags), flags.sample.num_samples) or {}


def _reference(flags):
    dataset = run_util.open_dataset(flags.data, flags.model.image_size)
    return evaluation.reference_of(dataset)


def _curve(cell, flags) -> dict:
    """Of each sigma or radius, the rise over the whole chain: of mse, or else of the loss."""
    flatness_run.check(flags)
    run_util.open_log(flags)
    record = flatness_run.study(flags, cell["folder"])
    rows = [r for r in curve_rows(record) if r["part"] == "all"]
    terms = {row["term"] for row in rows}
    term = "mse" if "mse" in terms else "loss"
    if term not in terms:
        raise ValueError(
            f"{cell['kind']} of {flags.flatness.model_path} measured {sorted(terms) or 'nothing'}; "
            "expected mse or loss: delete this cell's folder and run the study again"
        )
    size = "sigma" if cell["kind"] == "LPF" else "radius"
    kept = (size, "distance", "at_w", "at_w_error", "rise", "error", "error_images")
    curve = [{k: row[k] for k in kept if k in row} for row in rows if row["term"] == term]
    return {"term": term, "curve": curve}


def _spectrum(cell, flags) -> dict:
    flatness_run.check(flags)
    run_util.open_log(flags)
    model = flatness_run.study(flags, cell["folder"])["models"][0]
    return {name: model[name] for name in ("of", "trace", "eigenvalues", "residuals")}


def _exposure(cell, flags) -> dict:
    run_util.open_log(flags)
    record = exposure_run.study(flags)
    model = record["models"][0]
    about = {name: record[name] for name in ("timesteps", "noise_norm")}
    return about | {name: model[name] for name in CURVES}
