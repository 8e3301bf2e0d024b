"""A study as a matrix: objective x gradient x input perturbation x seed, each trained once, x
average.

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
from collections.abc import Iterator, Mapping
from typing import Any

from ..data.image_datasets import fingerprint
from ..flags import config, keys
from ..flags.choices import MEASURES, Measure
from ..measure.evaluation import LARGEST_REFERENCE
from ..models import dtypes
from ..store import checkpoint
from . import axes, objectives
from .images import held_out_of, images_of

# Of the cells by kind, others 3: a higher one makes all old ones void
VERSIONS = {"train": 1, "LPF": 4, "MC": 4, "SURFACE": 4, "HESSIAN": 4}
RESULT = "result.json"
FOLDER = "{folder}"  # the cell's own, in its command line
LEFT = {  # by the verbs of measures
    "flatness": "flatness.json",
    "exposure": "exposure_bias.json",
    "perturbed-samples": "perturbed_samples.json",
}
# told to each training, also where they are off, so that what needs them was not forgotten
SWITCHES = ("optimizer", "use_swa", "lr_anneal_steps")
SAMPLING = {"exposure": config.ExposureFlags, "perturbed": config.PerturbedFlags}


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
    objective: str = ""  # "" where the study knows but ddpm


@dataclasses.dataclass(frozen=True)
class Model:
    """One checkpoint of a training, and the cells that measure it, by name."""

    training: Training
    average: str
    cells: dict[str, Cell]
    calls: dict[str, int] = dataclasses.field(default_factory=dict)  # of networks, by distance

    @property
    def kind(self) -> dict[str, Any]:
        """What its seeds are repetitions of."""
        t = self.training
        about = {"objective": t.objective, "gradient": t.gradient, "input_pertub": t.input_pertub}
        return about | {"average": self.average}

    @property
    def name(self) -> str:
        t = self.training
        pertub = f" ip {t.input_pertub:g}" if t.input_pertub else ""
        of = f"{t.objective} " if t.objective else ""
        return f"{of}{t.gradient}{pertub} {self.average}, seed {t.seed}"


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
    named = list(zip(axes.names_of(gradients), gradients))
    kinds = itertools.product(cells.chains.items(), named, shifts, seeds)
    trainings = [cells.training(*each) for each in kinds]
    pairs = itertools.product(trainings, averages)
    return [cells.model(t, a) for t, a in pairs if a != "swa" or t.cell.flags.get("use_swa")]


class Cells:
    """Makes the cells of a study."""

    def __init__(self, flags, store: str):
        self.flags, self.store, self.study = flags, store, flags.study
        self.lists = axes.lists_of(flags.study)
        self.chains = objectives.objectives(flags)
        automatic = flags.run.dtype == "auto"
        flags.run = dtypes.decided(flags.run)
        self.run = {"dtype": flags.run.dtype}
        self.measured = self.run | ({"dtype": "fp32"} if automatic else {})
        images = images_of(flags)
        self.data = fingerprint(images)
        self.reference = self._reference(self.data, flags.data.data_dir, images.num_images)
        if path := self.study.heldout_data:
            found = held_out_of(flags, images)
            self.held_out = self._reference(fingerprint(found), path, found.num_images)
        self.floor = self._distance("floor", [], {"floor": self.study.num_samples}, {})

    def training(self, objective: tuple, named: tuple, pertub: float, seed: int) -> Training:
        """The training of an objective and a gradient, both (name, flags), input perturbation and
        seed."""
        flags, ranks, (name, chain) = self.flags, self.study.ranks, objective
        called, gradient = named
        train = axes.train_group(flags, gradient)
        run = dataclasses.replace(flags.run, seed=seed, log_dir="")
        diffusion = dataclasses.replace(chain, input_pertub=pertub)
        counted, aside = changed(run, flags.data, train, flags.model, diffusion)
        made_of = {"data": self.data, "ranks": ranks}
        aside["log_dir"] = FOLDER
        aside |= {name: getattr(train, name) for name in SWITCHES}
        cell = Cell("train", counted, made_of, self.store, ("train",), aside)
        what = called, axes.climbs(train), "times" in gradient, pertub, seed
        return Training(*what, train.end_step, axes.cost(train) * ranks, cell, name)

    def model(self, training: Training, average: str) -> Model:
        """The model of one average: its cells are, by name, samples and their distances, the
        registry's measures, the real images. All by the training's seed: models of one seed share
        noise, images and directions, those of another have others, so that seeds repeat all."""
        made_of = {"training": training.cell.key, "average": average}
        path = _checkpoint(training, average, training.steps)
        aside = {"model_path": path, "log_dir": FOLDER}
        chain, cells, calls = self.chains[training.objective], {}, {}
        first, *others = objectives.samplers(self.flags, chain)
        for name, *what in self._ways(first, others):
            samples = self._samples(*what, made_of, aside, training.seed)
            cells[f"samples_{name}"] = samples
            cells["reference"] = self.reference
            distance = self._distance("distance", [samples.file], {}, {"samples": samples.key})
            cells[f"fd_{name}"] = distance
            if training.objective or self.study.sampler:
                calls[f"fd_{name}"] = objectives.calls(chain, what[0], what[2])
        if self.study.heldout_data:
            drawn = next(cell for name, cell in cells.items() if name.startswith("samples_"))
            cells |= {"held_out": self.held_out, "copies": self._copies(drawn)}
        cells |= self._again(training, average, first, made_of, aside)
        asked = ((k, m) for k, m in MEASURES.items() if not m.asked or vars(self.study)[m.asked])
        for kind, measure in asked:
            more = {"seed": training.seed}
            more |= _unless_default(SAMPLING[kind], first) if kind in SAMPLING else {}
            for name, text in measure.cells.items():
                cells[name] = self._measured(kind, measure, text, more, made_of, aside)
        return Model(training, average, cells | {"floor": self.floor}, calls)

    def _again(self, training: Training, average: str, sampler: str, made_of, aside) -> dict:
        """The model's samples anew, by other generation seeds and of earlier checkpoints, and their
        distances: again_BACK_LATER, counted from the last checkpoint and the training's seed."""
        study, cells = self.study, {}
        steps = steps_of(training, self.flags.train.save_interval)
        wanted = 1 if average == "swa" else study.checkpoints
        if len(steps) < wanted:
            raise ValueError(
                f"--checkpoints is {wanted}, but a training of {training.steps} steps keeps "
                f"{len(steps)}: give a lower --save_interval"
            )
        for back, later in itertools.product(range(wanted), range(study.generation_seeds)):
            if (back, later) != (0, 0):
                more = {"step": steps[back]} if back else {}
                path = _checkpoint(training, average, steps[back])
                what = self.lists["sampling_steps"][0], 0, sampler
                told = made_of | more, aside | {"model_path": path}, training.seed + later
                cells[f"drawn_{back}_{later}"] = samples = self._samples(*what, *told)
                about = [samples.file], {}, {"samples": samples.key}
                cells[f"again_{back}_{later}"] = self._distance("distance", *about)
        return cells

    def _ways(self, first: str, others: list[str]) -> Iterator[tuple[str, int, int, str]]:
        """Gives name, steps, bits and sampler of each set of samples."""
        chains = self.lists["sampling_steps"]
        yield from ((f"{n}", n, 0, first) for n in chains)
        yield from ((f"{n}_{s}", n, 0, s) for s in others for n in chains)
        yield from ((f"{chains[0]}_w{b}", chains[0], b, first) for b in self.lists["bits"])

    def _reference(self, known: str, data_dir: str, num_images: int) -> Cell:
        """All real images as training sees them, or as many as a distance is measured to; `known`:
        the fingerprint of those in data_dir."""
        data, size, file = self.flags.data, self.flags.model.image_size, "reference.npz"
        flags = {"image_size": size, "num_images": min(num_images, LARGEST_REFERENCE)}
        aside = {"data_dir": data_dir}
        aside |= {n: getattr(data, n) for n in ("transparent", "skip_broken")}
        aside["out"] = os.path.join(FOLDER, file)
        made_of, words = {"data": known}, ("data", "to_npz")
        return Cell("reference", flags, made_of, self.store, words, aside, file)

    def _samples(self, steps: int, bits: int, sampler: str, made_of, aside, seed: int) -> Cell:
        n, size = self.study.num_samples, self.flags.model.image_size
        flags = self.run | {"seed": seed}
        flags |= {"num_samples": n, "quant": bits, "timestep_respacing": str(steps)}
        flags |= _unless_default(config.SampleFlags, sampler)
        aside = aside | {"batch_size": self.study.measure_batch}
        leaves = f"samples_{n}x{size}x{size}x3{f'_w{bits}' if bits else ''}.npz"
        return Cell("samples", flags, made_of, self.store, ("sample",), aside, leaves)

    def _distance(self, kind: str, samples: list[str], more: dict, made_of: dict) -> Cell:
        flags = {"features": axes.features_of(self.flags)} | more
        aside = {"json": os.path.join(FOLDER, "distance.json")}
        aside |= self._weights()
        made_of = made_of | {"reference": self.reference.key}
        words = ("evaluate", self.reference.file, *samples)
        return Cell(kind, flags, made_of, self.store, words, aside, "distance.json")

    def _copies(self, samples: Cell) -> Cell:
        """Samples, beside the images trained on and those held out."""
        found = self._distance("copies", [samples.file], {}, {"samples": samples.key})
        aside = {"train_data": self.reference.file, "heldout_data": self.held_out.file}
        made_of = {**found.made_of, "held_out": self.held_out.key}
        return dataclasses.replace(found, made_of=made_of, aside={**found.aside, **aside})

    def _weights(self) -> dict[str, str]:
        """The files of feature networks that were given."""
        names = ("inception_weights", "dinov2_weights")
        return {k: v for k in names if (v := getattr(self.study, k))}

    def _measured(self, kind, measure: Measure, text: str, told: dict, made_of, aside) -> Cell:
        """A measure of the registry, with the flags of one of its `cells`, and those `told`."""
        study = vars(self.study) | self.lists | {"features": axes.features_of(self.flags)}
        words = [word.format(**study) for word in text.split()]
        own = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2])}
        counted, more = changed(self.flags.data)
        flags = self.measured | counted | {"num_images": self.study.num_images} | own | told
        flags |= {"flatness": kind} if measure.verb == "flatness" else {}
        more |= self._weights() if "features" in own else {}
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


def _unless_default(group: type, sampler: str) -> dict[str, str]:
    """The flag, if it is not the default of the command's group."""
    return {} if sampler == group.sampler else {"sampler": sampler}


def steps_of(training: Training, interval: int) -> list[int]:
    """The steps at which a training keeps its weights, the last first."""
    return [training.steps, *range((training.steps - 1) // interval * interval, 0, -interval)]


def _checkpoint(training: Training, average: str, step: int) -> str:
    """The file of one average; the first rate's where there are several EMAs."""
    rates = training.cell.flags.get("ema_rate", config.TrainFlags.ema_rate)
    labels = {"ema": f"ema_{float(rates.split(',')[0] or 0)}", "swa": "swa"}
    label = labels.get(average, "_".join(["average", *average.split()]))
    name = checkpoint.average_name(label, step)
    name = checkpoint.model_name(step) if average == "none" else name
    return os.path.join(training.cell.folder, name)
