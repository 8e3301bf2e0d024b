"""A study as a matrix: gradient x input perturbation x seed, each trained once, x average.

Flags in; trainings, models and cells out. A cell is one thing to compute, and is known by the hash
of what made it: nothing that only says where files are, or how many at a time, is part of that.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from typing import Any

import numpy as np

from ..data.image_datasets import ImageDataset
from ..flags import config, keys
from ..store import checkpoint
from .axes import (
    averages_of,
    check,
    climbs,
    cost,
    features_of,
    gradients,
    name_of,
    numbers,
    train_group,
    whole_numbers,
)

VERSIONS = {"train": 1}  # of the cells by kind: a higher number makes all old ones void
VERSION = 2  # of all other kinds
RESULT = "result.json"
LOOKED_AT = 1000  # images in the fingerprint of the data
SHARED = {
    "run": config.RunFlags,
    "data": config.DataFlags,
    "model": config.ModelFlags,
    "diffusion": config.DiffusionFlags,
    "train": config.TrainFlags,
}
GROUPS = {  # of the command line that each kind of cell is done by
    "train": {**SHARED, "evaluation": config.EvalFlags},
    "samples": {"sample": config.SampleFlags, "quant": config.QuantFlags, **SHARED},
    "distance": {"features": config.FeatureFlags, **SHARED},
    "floor": {"sample": config.SampleFlags, "features": config.FeatureFlags, **SHARED},
    "LPF": {"flatness": config.FlatnessFlags, **SHARED},
    "MC": {"flatness": config.FlatnessFlags, **SHARED},
    "HESSIAN": {"flatness": config.FlatnessFlags, **SHARED},
    "exposure": {"exposure": config.ExposureFlags, **SHARED},
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One thing to compute: by which flags, from what (`made_of`: text by name)."""

    kind: str
    flags: dict[str, Any]
    made_of: dict[str, Any]
    store: str

    @functools.cached_property
    def key(self) -> str:
        counted = keys.names(GROUPS[self.kind].values(), "result")
        flags = {k: v for k, v in self.flags.items() if k in counted}
        version = VERSIONS.get(self.kind, VERSION)
        text = json.dumps([version, self.kind, flags, self.made_of], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        return os.path.join(self.store, f"{self.kind}-{self.key}")

    def result(self) -> dict | None:
        """What was computed; None if it was not, or not to its end."""
        return read_result(self.folder)


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run: a row of the matrix for one seed. `cost`: images with a gradient."""

    gradient: str
    climbs: bool
    matched: bool  # Adam with the cost of one that climbs
    input_pertub: float
    seed: int
    steps: int
    cost: float
    cell: Cell


@dataclasses.dataclass(frozen=True)
class Model:
    """One checkpoint of a training, and the cells that measure it, by name."""

    training: Training
    average: str
    cells: dict[str, Cell]

    @property
    def name(self) -> str:
        t = self.training
        pertub = f" ip {t.input_pertub:g}" if t.input_pertub else ""
        return f"{t.gradient}{pertub} {self.average}, seed {t.seed}"


def read_result(folder: str) -> dict | None:
    try:
        return checkpoint.load_json(os.path.join(folder, RESULT))
    except (OSError, ValueError):  # none, or half a file: computed again
        return None


def models_of(flags, store: str) -> list[Model]:
    """The whole matrix, in the order of the tables; ValueError for flags that make none."""
    check(flags)
    data = fingerprint(flags)
    axes = gradients(flags), numbers("input_pertub", flags.study.input_pertub)
    trainings = [
        _training(flags, gradient, pertub, flags.run.seed + i, data, store)
        for (gradient, pertub), i in itertools.product(
            itertools.product(*axes), range(flags.study.seeds)
        )
    ]
    averages = averages_of(flags)
    return [Model(t, a, _measures(flags, t, a, data, store)) for t in trainings for a in averages]


def fingerprint(flags) -> str:
    """A hash of the images as the network sees them: of all names, and of up to 1000 images."""
    data = flags.data
    dataset = ImageDataset(
        data.data_dir,
        flags.model.image_size,
        flags.model.class_cond,
        data.class_from,
        transparent=data.transparent,
    )
    digest = hashlib.sha256(json.dumps([dataset.num_images, dataset.classes]).encode())
    count = min(dataset.num_images, LOOKED_AT)
    for i in np.linspace(0, dataset.num_images - 1, count).round().astype(int):
        digest.update(dataset.image(int(i)).tobytes())
    if dataset.labels is not None:
        digest.update(np.asarray(dataset.labels, np.int64).tobytes())
    return digest.hexdigest()[:16]


# Cells


def _training(flags, gradient: dict, pertub: float, seed: int, data: str, store: str) -> Training:
    train = train_group(flags, gradient)
    groups = (
        dataclasses.replace(flags.run, seed=seed, log_dir=""),
        flags.data,
        train,
        flags.model,
        dataclasses.replace(flags.diffusion, input_pertub=pertub),
    )
    trains = keys.changes(groups)
    given = {k: v for group in groups for k, v in changed(group).items() if trains[k] != "sampling"}
    cell = Cell("train", given, {"data": data, "ranks": flags.study.ranks}, store)
    return Training(
        gradient=name_of(gradient),
        climbs=climbs(train),
        matched="times" in gradient,
        input_pertub=pertub,
        seed=seed,
        steps=train.end_step,
        cost=cost(train) * flags.study.ranks,
        cell=cell,
    )


def changed(group) -> dict[str, Any]:
    """The flags that differ from their defaults, so that a new flag, if off, voids no cell."""
    fields = dataclasses.fields(group)
    return {f.name: v for f in fields if (v := getattr(group, f.name)) != f.default}


def _measures(flags, training: Training, average: str, data: str, store: str) -> dict[str, Cell]:
    """The cells of one model: samples and their distances, flatness, exposure bias."""
    s = flags.study
    made_of = {"training": training.cell.key, "average": average}
    run = {"seed": flags.run.seed, "dtype": flags.run.dtype}
    common = {"model_path": _checkpoint(training, average), **run}
    on_data = common | changed(flags.data) | {"num_images": s.num_images}
    compared = {
        "data_dir": flags.data.data_dir,
        "image_size": flags.model.image_size,
        "features": features_of(flags),
        "inception_weights": s.inception_weights,
    }
    cells = {}
    for steps, bits in _sampled(s):
        name = f"fd_{steps}" + (f"_w{bits}" if bits else "")
        own = {"num_samples": s.num_samples, "batch_size": s.measure_batch, "quant": bits}
        samples = Cell("samples", common | own | {"timestep_respacing": str(steps)}, made_of, store)
        cells[f"samples{name[2:]}"] = samples
        cells[name] = Cell("distance", compared, {"samples": samples.key, "data": data}, store)
    few = {"num_draws": s.num_draws}
    for name, own in {
        "LPF": few | {"sigma": s.sigma},
        "LPF filter": few | {"sigma": s.filter_sigma, "noise_scale": "filter"},
        "MC": few | {"radius": s.radius},
        "HESSIAN": {"num_draws": 2, "num_eigenvalues": 1},
    }.items():
        kind = name.partition(" ")[0]
        measured = on_data | own | {"flatness": kind}
        cells[name] = Cell(kind, measured, made_of | {"data": data}, store)
    steps = {"timestep_respacing": str(whole_numbers("sampling_steps", s.sampling_steps)[0])}
    cells["exposure"] = Cell("exposure", on_data | steps, made_of | {"data": data}, store)
    as_many = compared | {"num_samples": s.num_samples}
    cells["floor"] = Cell("floor", as_many, {"data": data}, store)  # of all models
    return cells


def _sampled(s: config.StudyFlags) -> list[tuple[int, int]]:
    """(steps, bits) of each set of samples; 0 bits: fp32."""
    steps = whole_numbers("sampling_steps", s.sampling_steps)
    return [(n, 0) for n in steps] + [(steps[0], b) for b in whole_numbers("bits", s.bits)]


def _checkpoint(training: Training, average: str) -> str:
    rates = training.cell.flags.get("ema_rate", config.TrainFlags.ema_rate)
    rate = float(rates.split(",")[0] or 0)
    name = {
        "none": checkpoint.model_name(training.steps),
        "ema": checkpoint.ema_name(rate, training.steps),
        "swa": checkpoint.swa_name(training.steps),
    }[average]
    return os.path.join(training.cell.folder, name)
