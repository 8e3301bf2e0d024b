"""What a job of a study does: the cells of one job file, each a command line of our scripts.

A cell's folder is locked while it is worked on, so that a study that was killed and begun again, or
two studies with one store, do not write the same files. Its result.json is written last.
"""

import contextlib
import os
import time
from collections.abc import Callable

from ..store import checkpoint, disk, lock
from ..world import dist_util, stopping
from .matrix import RESULT, Cell, read_result

WITHOUT_RANKS = ("data", "evaluate")  # the commands that one rank does for all


def write(cells: list[Cell], name: str, path: str) -> None:
    """The job file of these cells; what needs another's file comes after it."""
    names = ("kind", "folder", "argv", "leaves", "flags", "made_of")
    content = [{name: getattr(cell, name) for name in names} for cell in cells]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    checkpoint.save_json({"name": name, "cells": content}, path)


def work(path: str, run: Callable[[list[str]], None]) -> None:
    """Do what the job file says, all ranks together; `run` does one command line. What is done
    already is left as it is."""
    for cell in _cells(path):
        with _locked(cell["folder"]):
            if dist_util.broadcast_object(read_result(cell["folder"])) is None:
                stopping.check()
                _do(cell, run)


def _cells(path: str) -> list[dict]:
    kinds = {"folder": str, "argv": list, "leaves": str}
    with disk.reading(path):
        cells = checkpoint.load_json(path)["cells"]
        for cell in cells:
            if {name: type(cell[name]) for name in kinds} != kinds:
                raise ValueError(f"this is no cell of a study: {cell!r:.80}")
    return cells


def _do(cell: dict, run: Callable[[list[str]], None]) -> None:
    """Runs its command line, and writes its result: the content of the json that the script left,
    or the name of another file; of a training, which leaves many, the time that it took."""
    folder, argv, leaves = cell["folder"], cell["argv"], cell["leaves"]
    first = dist_util.rank() == 0
    if first:
        checkpoint.save_json(cell, os.path.join(folder, "cell.json"))
    with _timed(folder) as result:
        if first or argv[0] not in WITHOUT_RANKS:
            run(argv)
    if not first:
        return
    if leaves.endswith(".json"):
        result = checkpoint.load_json(os.path.join(folder, leaves))
    elif leaves:
        result = {"file": leaves}
    checkpoint.save_json(result, os.path.join(folder, RESULT))


@contextlib.contextmanager
def _timed(folder: str):
    """Yields a dict that then has the seconds of a training: of all its steps, at the pace of those
    done in the block, since a run may have been killed. The processor's are rank 0's, and say more
    where jobs share cores."""
    before = max(checkpoint.complete_steps(folder), default=0)
    wall, processor, times = time.monotonic(), time.process_time(), {}
    yield times
    steps = max(checkpoint.complete_steps(folder), default=0)
    scale = steps / max(1, steps - before)
    times["seconds"] = (time.monotonic() - wall) * scale
    times["processor_seconds"] = (time.process_time() - processor) * scale
    times["steps_timed"] = steps - before


@contextlib.contextmanager
def _locked(folder: str):
    """Rank 0 holds the folder's lock, and waits for another that does."""
    if dist_util.rank() > 0:
        yield
        return
    with lock.scope():
        lock.take(folder, "cell", wait=True)
        yield
