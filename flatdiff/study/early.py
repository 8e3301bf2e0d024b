"""What cannot work is found before anything is trained.

Each cell's command line is told to its own script, which checks it as it does when its turn comes.
Checkpoints are not there yet: in their place are empty files, beside the config.json that their
training will write.
"""

import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable

from ..flags import config
from ..measure import evaluation
from ..store import checkpoint
from .matrix import Cell, Model

WRITTEN = {  # groups of a training's config.json
    "run": config.RunFlags,
    "data": config.DataFlags,
    "train": config.TrainFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
}


def check(models: list[Model], run: Callable[[list[str]], None]) -> None:
    """Raise ValueError for a cell that is not done and would fail; `run` does one command line. Of
    those that are alike but for the seed, or the training's seed, one is looked at."""
    seen = set()
    with tempfile.TemporaryDirectory() as store, config.checking(), _argv_kept():
        for model in models:
            training = model.training.cell
            for cell in (training, *model.cells.values()):
                of = training.flags if "training" in cell.made_of or cell is training else {}
                alike = [{**flags, "seed": 0} for flags in (cell.flags, of)]
                told = json.dumps([cell.words[0], *alike], sort_keys=True)
                if told not in seen and cell.result() is None:
                    seen.add(told)
                    _stand_in(cell, training, store)
                    _check(cell, store, run)


def _check(cell: Cell, store: str, run: Callable[[list[str]], None]) -> None:
    words = _moved(cell, store)
    try:
        if words[0] == "evaluate":
            told = {**cell.flags, **cell.aside}
            names = ("features", "inception_weights", "dinov2_weights")
            evaluation.network(*(told.get(name, "") for name in names))
        elif words[0] != "data":  # which is read by now
            with contextlib.redirect_stdout(io.StringIO()):  # each job's log will say it
                run(words)
    except ValueError as error:
        flags = (word for name, v in cell.flags.items() for word in (f"--{name}", str(v)))
        command = shlex.join(["flatdiff", words[0], *flags])
        raise ValueError(f"{error} (this study would run: {command})") from error


def _stand_in(cell: Cell, training: Cell, store: str) -> None:
    """The checkpoint of a cell, empty, and its training's config.json."""
    path = cell.aside.get("model_path")
    if path:
        path = os.path.join(store, os.path.relpath(path, cell.store))
        flags = config.parse("", _moved(training, store)[1:], **WRITTEN)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        checkpoint.save_json(config.to_dict(flags), f"{os.path.dirname(path)}/{checkpoint.CONFIG}")
        open(path, "w").close()


def _moved(cell: Cell, store: str) -> list[str]:
    """The command line with all cells' files in another folder."""
    return [word.replace(cell.store, store) for word in cell.argv]


@contextlib.contextmanager
def _argv_kept():
    before = sys.argv
    try:
        yield
    finally:
        sys.argv = before
