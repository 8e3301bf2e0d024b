"""A study as a matrix: gradient x input perturbation x seed, each trained once, x average.

Flags in; trainings, models and cells out. A cell is a command line of one of our scripts, and is
known by the hash of what its numbers depend on: nothing that only says where files are, or how many
at a time, is part of that.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.image_datasets import ImageDataset
from ..flags import config, keys
from ..flags.choices import MEASURES, Measure
from ..measure.evaluation import LARGEST_REFERENCE
from ..models import dtypes
from ..store import checkpoint
from . import axes

# Of the cells by kind, others 3: a higher one makes all old ones void
VERSIONS = {"train": 1, "LPF": 4, "MC": 4, "SURFACE": 4, "HESSIAN": 4}
RESULT = "result.json"
FOLDER = "{folder}"  # the cell's own, in its command line
LOOKED_AT = 1000  # images in the fingerprint of the data
LEFT = {"flatness": "flatness.json", "exposure": "exposure_bias.json"}  # by the verbs of measures


@dataclasses.dataclass(frozen=True)
class Cell:
    """A command line, of `words` and flags, and the file that it `leaves` in the cell's folder.
    `flags` and `made_of` are what its numbers depend on, as values by name; `aside`, the flags that
    change none of them."""

    kind: str
    flags: Mapping[str, Any]
    made_of: Mapping[str, Any]
    store: str
    words: tuple[str, ...] = ()
    aside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    leaves: str = ""

    @functools.cached_property
    def key(self) -> str:
        made_of = [VERSIONS.get(self.kind, 3), self.kind, self.flags, self.made_of]
        text = json.dumps(made_of, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        return os.path.join(self.store, f"{self.kind}-{self.key}")

    @property
    def file(self) -> str:
        """The path of what it leaves."""
        return os.path.join(self.folder, self.leaves)

    @property
    def argv(self) -> list[str]:
        """What `flatdiff` is told."""
        flags = {**self.flags, **self.aside}.items()
        words = [*self.words, *(word for name, v in flags for word in (f"--{name}", str(v)))]
        return [word.replace(FOLDER, self.folder) for word in words]

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
    def kind(self) -> dict[str, Any]:
        """What its seeds are repetitions of."""
        t = self.training
        return {"gradient": t.gradient, "input_pertub": t.input_pertub, "average": self.average}

    @property
    def name(self) -> str:
        t = self.training
        pertub = f" ip {t.input_pertub:g}" if t.input_pertub else ""
        return f"{t.gradient}{pertub} {self.average}, seed {t.seed}"


def read_result(folder: str) -> dict | None:
    """The folder's result; None where there is none, or half a file: it is computed again."""
    try:
        return checkpoint.load_json(os.path.join(folder, RESULT))
    except (OSError, ValueError):
        return None


def models_of(flags, store: str) -> list[Model]:
    """The whole matrix, in the order of the tables; ValueError for flags that make none."""
    axes.check(flags)
    gradients = axes.gradients(flags)
    shifts = axes.numbers("input_pertub", flags.study.input_pertub)
    averages = axes.averages_of(flags)
    cells = Cells(flags, store)
    seeds = range(flags.run.seed, flags.run.seed + flags.study.seeds)
    trainings = [cells.training(*each) for each in itertools.product(gradients, shifts, seeds)]
    return [Model(t, a, cells.of_model(t, a)) for t in trainings for a in averages]


def fingerprint(dataset: ImageDataset) -> str:
    """A hash of the images as the network sees them: of all names, and of up to 1000 images."""
    digest = hashlib.sha256(json.dumps([dataset.num_images, dataset.classes]).encode())
    count = min(dataset.num_images, LOOKED_AT)
    for i in np.linspace(0, dataset.num_images - 1, count).round().astype(int):
        digest.update(dataset.image(int(i)).tobytes())
    if dataset.labels is not None:
        digest.update(np.asarray(dataset.labels, np.int64).tobytes())
    return digest.hexdigest()[:16]


def images_of(flags) -> ImageDataset:
    """The images that the networks are trained on."""
    data, model = flags.data, flags.model
    how = data.data_dir, model.image_size, model.class_cond, data.class_from
    return ImageDataset(*how, transparent=data.transparent)


class Cells:
    """Makes the cells of a study."""

    def __init__(self, flags, store: str):
        self.flags, self.store, self.study = flags, store, flags.study
        self.lists = axes.lists_of(flags.study)
        automatic = flags.run.dtype == "auto"
        flags.run = dtypes.decided(flags.run)
        self.run = {"seed": flags.run.seed, "dtype": flags.run.dtype}
        self.measured = self.run | ({"dtype": "fp32"} if automatic else {})
        images = images_of(flags)
        self.data = fingerprint(images)
        self.reference = self._reference(images.num_images)
        self.floor = self._distance("floor", [], {"floor": self.study.num_samples}, {})

    def training(self, gradient: dict, pertub: float, seed: int) -> Training:
        """The training of one gradient, input perturbation and seed."""
        flags, ranks = self.flags, self.study.ranks
        train = axes.train_group(flags, gradient)
        run = dataclasses.replace(flags.run, seed=seed, log_dir="")
        diffusion = dataclasses.replace(flags.diffusion, input_pertub=pertub)
        counted, aside = changed(run, flags.data, train, flags.model, diffusion)
        made_of = {"data": self.data, "ranks": ranks}
        aside["log_dir"] = FOLDER
        cell = Cell("train", counted, made_of, self.store, ("train",), aside)
        what = axes.name_of(gradient), axes.climbs(train), "times" in gradient, pertub, seed
        return Training(*what, train.end_step, axes.cost(train) * ranks, cell)

    def of_model(self, training: Training, average: str) -> dict[str, Cell]:
        """Gives by name samples and their distances, the registry's measures, the real images."""
        made_of = {"training": training.cell.key, "average": average}
        aside = {"model_path": _checkpoint(training, average), "log_dir": FOLDER}
        cells, chains = {}, self.lists["sampling_steps"]
        for steps, bits in [(n, 0) for n in chains] + [(chains[0], b) for b in self.lists["bits"]]:
            name = f"{steps}_w{bits}" if bits else f"{steps}"
            cells[f"samples_{name}"] = samples = self._samples(steps, bits, made_of, aside)
            cells["reference"] = self.reference
            distance = self._distance("distance", [samples.file], {}, {"samples": samples.key})
            cells[f"fd_{name}"] = distance
        for kind, measure in MEASURES.items():
            for name, text in measure.cells.items():
                cells[name] = self._measured(kind, measure, text, made_of, aside)
        return cells | {"floor": self.floor}

    def _reference(self, num_images: int) -> Cell:
        """All real images as training sees them, or as many as a distance is measured to."""
        data, size, file = self.flags.data, self.flags.model.image_size, "reference.npz"
        flags = {"image_size": size, "num_images": min(num_images, LARGEST_REFERENCE)}
        aside = {"data_dir": data.data_dir, "transparent": data.transparent}
        aside["out"] = os.path.join(FOLDER, file)
        made_of, words = {"data": self.data}, ("data", "to_npz")
        return Cell("reference", flags, made_of, self.store, words, aside, file)

    def _samples(self, steps: int, bits: int, made_of: dict, aside: dict) -> Cell:
        n, size = self.study.num_samples, self.flags.model.image_size
        flags = self.run | {"num_samples": n, "quant": bits, "timestep_respacing": str(steps)}
        aside = aside | {"batch_size": self.study.measure_batch}
        leaves = f"samples_{n}x{size}x{size}x3{f'_w{bits}' if bits else ''}.npz"
        return Cell("samples", flags, made_of, self.store, ("sample",), aside, leaves)

    def _distance(self, kind: str, samples: list[str], more: dict, made_of: dict) -> Cell:
        flags = {"features": axes.features_of(self.flags)} | more
        aside = {"json": os.path.join(FOLDER, "distance.json")}
        if weights := self.study.inception_weights:
            aside["inception_weights"] = weights
        made_of = made_of | {"reference": self.reference.key}
        words = ("evaluate", self.reference.file, *samples)
        return Cell(kind, flags, made_of, self.store, words, aside, "distance.json")

    def _measured(self, kind: str, measure: Measure, text: str, made_of: dict, aside: dict) -> Cell:
        """A measure of the registry, with the flags of one of its `cells`."""
        study = vars(self.study) | self.lists
        words = [word.format(**study) for word in text.split()]
        own = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2])}
        counted, more = changed(self.flags.data)
        flags = self.measured | counted | {"num_images": self.study.num_images} | own
        flags |= {"flatness": kind} if measure.verb == "flatness" else {}
        what = flags, made_of | {"data": self.data}, self.store, (measure.verb,), aside | more
        return Cell(kind, *what, LEFT[measure.verb])


def changed(*groups) -> tuple[dict[str, Any], dict[str, Any]]:
    """The flags that differ from their defaults, so that a new flag, if off, voids no cell: those
    that change what is trained or measured, and those that change no number."""
    what, counted, aside = keys.changes(groups), {}, {}
    for field, value in ((f, getattr(g, f.name)) for g in groups for f in dataclasses.fields(g)):
        if value != field.default and what[field.name] != "sampling":
            (aside if what[field.name] == "nothing" else counted)[field.name] = value
    return counted, aside


def _checkpoint(training: Training, average: str) -> str:
    """The file of one average; the first rate's where there are several EMAs."""
    rates = training.cell.flags.get("ema_rate", config.TrainFlags.ema_rate)
    labels = {"ema": f"ema_{float(rates.split(',')[0] or 0)}", "swa": "swa"}
    label = labels.get(average, "_".join(["average", *average.split()]))
    name = checkpoint.average_name(label, training.steps)
    name = checkpoint.model_name(training.steps) if average == "none" else name
    return os.path.join(training.cell.folder, name)
