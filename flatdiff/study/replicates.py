"""What repeats what, among models and their samples: seeds of training, checkpoints, samples."""

import json
import math
import os
import re

from ..judge import settings
from ..judge.names import metric_name
from ..measure import evaluation
from ..report.text import table as aligned
from ..store import checkpoint
from .matrix import Model
from .rows import distances
from .variance import Component, Observation, split, table

UNLIKE = {"seed", "log_dir", "data_dir", "resume", "num_workers"}  # flags of repetitions
UNLIKE |= {"resume_checkpoint", "allow_change"}
NOTE = (
    "standard deviations, the same for all kinds (of flags but the seed), normal at each level. Of "
    "generation seeds by samples of several, else by the jackknife over images, which is too large "
    "near a perfect copy"
)


def of_runs(found: list[dict]) -> dict[str, list[dict]]:
    """The components of variance by metric, of the results of `evaluation.of_runs`."""
    known = [r for r in found if r.get("left_out")]
    names = dict.fromkeys(name for r in known for name in r["left_out"])
    return {
        name: [
            part._asdict()
            for part in split([_observation(r, name) for r in known if name in r["left_out"]])
        ]
        for name in names
    }


def of_models(models: list[Model], rows: list[dict]) -> dict[str, list[dict]]:
    """The same of a study, by the column of its distances."""
    found = {}
    for column in distances(rows[0]):
        seen = [o for model in models for o in _observations(model, column)]
        found[column] = [part._asdict() for part in split(seen)] if seen else []
    return found


def text(scatter: dict[str, list[dict]]) -> str:
    """The components of the first metric as a table, and how to read it."""
    if not scatter:
        return ""
    name, parts = next(iter(scatter.items()))
    header, *rows = table([Component(**part) for part in parts])
    return f"{aligned([[f'{name}: {header[0]}', *header[1:]], *rows])}\n{NOTE}"


def _observations(model: Model, column: str) -> list[Observation]:
    """The distance of a model, and where it is the first of a study those of its samples anew."""
    again = [name for name in model.cells if name.startswith("again_")]
    first = next(name for name in model.cells if name.startswith("fd_")) == column
    found = []
    for name in [column, *(again if first else ())]:
        back, later = map(int, name.split("_")[1:]) if name in again else (0, 0)
        if result := model.cells[name].result():
            metric = metric_name(result["features"])
            value = result["metrics"].get(metric, math.nan)
            groups = result.get("left_out", {}).get(metric, ())
            seed = model.training.seed
            about = tuple(model.kind.values()), seed, back, seed + later
            found += [Observation(value, *about, groups)] if math.isfinite(value) else []
    return found


def _observation(result: dict, name: str) -> Observation:
    """Trainings of one kind differ in nothing but the seed; checkpoints of one, by their step."""
    said = settings.comment(result["file"])
    drawn = {k: v for k, v in settings.flags(said).items() if k != "seed"}
    weights = evaluation.weights_of(result).split()[0] if said else ""
    label, step = re.fullmatch(r"(.*?)_?(\d{6})?(?:\.pt)?", weights).groups()
    kind = json.dumps([_flags(result["folder"]), result["kind"], drawn, label], sort_keys=True)
    seed = settings.flags(said).get("seed", 0)
    groups = result["left_out"][name]
    return Observation(result["metrics"][name], kind, result["folder"], step or "", seed, groups)


def _flags(folder: str) -> dict | str:
    """What the run was trained with; the folder itself where it does not say."""
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        return folder
    groups = checkpoint.load_json(path)
    groups = [of for of in groups.values() if isinstance(of, dict)]
    return {k: v for of in groups for k, v in of.items() if k not in UNLIKE}
