"""What a job of a study does: the cells of one job file, each by the function of its own script.

A cell's folder is locked while it is worked on, so that a study that was killed and begun again, or
two studies with one store, do not write the same files. Its result.json is written last.
"""

import contextlib
import fcntl
import glob
import os
import time

from . import checkpoint, config, disk, dist_util, evaluation, exposure_run, flatness_run, run_util
from .exposure_report import CURVES
from .flatness_report import curve_rows
from .study import GROUPS, RESULT, Cell, read_result


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
    f = flags.features
    measure = evaluation.measure_by(f.features, f.inception_weights)
    dataset = run_util.open_dataset(flags.data, flags.model.image_size)
    samples = f"{os.path.dirname(cell['folder'])}/samples-{cell['made_of']['samples']}"
    found = measure(evaluation.reference_of(dataset), samples_in(samples))
    name = evaluation.distance_name(f.features)
    metrics = found["metrics"]
    return {"name": name, "value": metrics[name], "error": metrics[f"{name}_error"]} | found


def _curve(cell, flags) -> dict:
    """Of each sigma or radius, the rise of the loss over the whole chain."""
    flatness_run.check(flags)
    run_util.open_log(flags)
    record = flatness_run.study(flags, cell["folder"])
    rows = [r for r in curve_rows(record) if r["part"] == "all" and r["term"] == "loss"]
    size = "sigma" if cell["kind"] == "LPF" else "radius"
    kept = (size, "distance", "at_w", "at_w_error", "rise", "error")
    return {"curve": [{name: row[name] for name in kept} for row in rows]}


def _spectrum(cell, flags) -> dict:
    flatness_run.check(flags)
    run_util.open_log(flags)
    model = flatness_run.study(flags, cell["folder"])["models"][0]
    return {name: model[name] for name in ("of", "trace", "eigenvalues", "residuals")}


def _exposure(cell, flags) -> dict:
    run_util.open_log(flags)
    record = exposure_run.study(flags)
    model = record["models"][0]
    return {"timesteps": record["timesteps"]} | {name: model[name] for name in CURVES}
