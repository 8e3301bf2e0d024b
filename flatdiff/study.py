"""A study as a matrix: gradient x input perturbation x seed, each trained once, x average.

Flags in; trainings, models and cells out. A cell is one thing to compute, and is known by the hash
of what made it: nothing that only says where files are, or how many at a time, is part of that.
"""

import argparse
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
from typing import Any

import numpy as np

from . import checkpoint, config
from .flags import reader
from .image_datasets import ImageDataset

VERSION = 1  # of the cells: a higher number makes all old ones void
AVERAGES = ("none", "ema", "swa")
RESULT = "result.json"
LOOKED_AT = 1000  # images in the fingerprint of the data
SIDE_ISSUES = set(  # flags that change no number
    "data_dir log_dir num_workers log_interval save_interval keep_last sample_interval resume "
    "model_path samples inception_weights measure_batch".split()
)
OF_SAMPLING = {"timestep_respacing", "eps_scaler", "eps_scaler_slope"}
NOT_FOR_STUDIES = {
    "optimizer": "--gradient says what is trained",
    "use_swa": "--average says what is averaged",
    "resume": "a study goes on by itself",
    "resume_checkpoint": "a study trains from the start",
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
        aside = SIDE_ISSUES if self.kind == "train" else SIDE_ISSUES | {"batch_size"}
        flags = {k: v for k, v in self.flags.items() if k not in aside}
        text = json.dumps([VERSION, self.kind, flags, self.made_of], sort_keys=True)
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
    twice: bool  # Adam with the cost of SAM
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
    axes = gradients(flags), _numbers("input_pertub", flags.study.input_pertub)
    trainings = [
        _training(flags, gradient, pertub, flags.run.seed + i, data, store)
        for (gradient, pertub), i in itertools.product(
            itertools.product(*axes), range(flags.study.seeds)
        )
    ]
    averages = averages_of(flags)
    return [Model(t, a, _measures(flags, t, a, data, store)) for t in trainings for a in averages]


# The axes


def gradients(flags) -> list[dict[str, Any]]:
    """Of each kind of training, the TrainFlags that make it: in the order asked, then Adam x 2."""
    radii = _numbers("rho", flags.study.rho)
    found = []
    for text in filter(None, map(str.strip, flags.study.gradient.split(","))):
        changed = _train_flags(text)
        climbs = changed["optimizer"] != "adam"
        crossed = climbs and "rho" not in changed
        found += [changed | {"rho": rho} for rho in radii] if crossed else [changed]
    if not found:
        raise ValueError("--gradient is empty; expected names as adam,adam-sam")
    if flags.study.matched and any(g["optimizer"] != "adam" for g in found):
        found.append({"optimizer": "adam", "twice": True})
    return list({_name(g): g for g in found}.values())


def _train_flags(text: str) -> dict[str, Any]:
    """Text such as "adam-sam sam_sync=True" -> {"optimizer": "adam-sam", "sam_sync": True}."""
    fields = {f.name: f for f in dataclasses.fields(config.TrainFlags)}
    first, *others = text.split()
    values = {}
    for part in [f"optimizer={first}", *others]:
        name, _, value = part.partition("=")
        if name not in fields:
            raise ValueError(
                f"--gradient {text!r}: {name!r} is no flag of training; expected an optimizer, "
                "then name=value with flags as rho or sam_sync"
            )
        try:
            values[name] = reader(fields[name])(value)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--gradient {text!r}, {name}: {error}") from None
    return values


def _name(gradient: dict) -> str:
    others = [f"{k}={v}" for k, v in gradient.items() if k not in ("optimizer", "twice")]
    return " ".join([gradient["optimizer"], *others, *["2x steps"] * ("twice" in gradient)])


def averages_of(flags) -> list[str]:
    names = list(dict.fromkeys(a.strip() for a in flags.study.average.split(",") if a.strip()))
    for name in names:
        if name not in AVERAGES:
            raise ValueError(f"--average: got {name!r}, expected {', '.join(AVERAGES)}")
    if not names:
        raise ValueError(f"--average is empty; expected some of {', '.join(AVERAGES)}")
    return names


def _numbers(name: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values or not all(0 <= v < math.inf for v in values):
        raise ValueError(
            f"--{name} is {text!r}; expected numbers of 0 or more, separated by commas"
        )
    return list(dict.fromkeys(values))


def whole_numbers(name: str, text: str) -> list[int]:
    values = _numbers(name, text) if text.strip() else []
    if any(v < 1 or v % 1 for v in values):
        raise ValueError(f"--{name} is {text!r}; expected whole numbers separated by commas")
    return list(map(int, values))


# What was asked for


def check(flags) -> None:
    """ValueError for flags that a study has no use for, or that do not go together."""
    for name, why in NOT_FOR_STUDIES.items():
        if name in flags.given:
            raise ValueError(f"--{name} is not for studies: {why}")
    averages = averages_of(flags)
    if not (flags.train.end_step or flags.train.lr_anneal_steps):
        raise ValueError("no end of training: give --end_step N, the optimizer steps of each run")
    if "ema" in averages and not flags.train.ema_rate:
        raise ValueError("--average has ema, but --ema_rate is empty: give a rate, as 0.9999")
    if "swa" in averages and flags.train.lr_anneal_steps:
        raise ValueError(
            "--average has swa, which is the mean of weights along a constant rate, and all "
            "averages come from the same training: give --lr_anneal_steps 0, or leave swa out"
        )
    if not whole_numbers("sampling_steps", flags.study.sampling_steps):
        raise ValueError("--sampling_steps is empty; expected numbers of steps, as 20,100")


def features_of(flags) -> str:
    """The features of the Frechet distances, by --features or what else was given."""
    s = flags.study
    own_digits = "digits" in flags.presets and "data_dir" not in flags.given
    return s.features or (
        "digits" if own_digits else "inception" if s.inception_weights else "lite0"
    )


def fingerprint(flags) -> str:
    """A hash of the images as the network sees them: of all names, and of up to 1000 images."""
    data = flags.data
    dataset = ImageDataset(
        data.data_dir, flags.model.image_size, flags.model.class_cond, data.class_from
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
    train = _train_group(flags, gradient)
    groups = (
        dataclasses.replace(flags.run, seed=seed, log_dir=""),
        flags.data,
        train,
        flags.model,
        dataclasses.replace(flags.diffusion, input_pertub=pertub),
    )
    given = {k: v for group in groups for k, v in changed(group).items() if k not in OF_SAMPLING}
    cell = Cell("train", given, {"data": data, "ranks": flags.study.ranks}, store)
    images = train.end_step * train.batch_size * flags.study.ranks
    return Training(
        gradient=_name(gradient),
        climbs=train.optimizer != "adam" and train.rho > 0,
        twice=gradient.get("twice", False),
        input_pertub=pertub,
        seed=seed,
        steps=train.end_step,
        cost=images * passes(train),
        cell=cell,
    )


def _train_group(flags, gradient: dict) -> config.TrainFlags:
    """TrainFlags of one kind of training.

    It collects SWA wherever the rate is constant, which does not touch its weights, over the last
    quarter of the steps (Izmailov et al. 2018, section 5: 75 % of the budget before) in 20 windows,
    unless --swa_start and --swa_window say otherwise. Twice the steps is twice all schedules.
    """
    train = flags.train
    times = 2 if gradient.get("twice") else 1
    steps = (train.end_step or train.lr_anneal_steps) * times
    swa = {}
    if not train.lr_anneal_steps:
        start = train.swa_start * times if "swa_start" in flags.given else steps * 3 // 4
        window = train.swa_window if "swa_window" in flags.given else max(1, (steps - start) // 20)
        swa = {"use_swa": True, "swa_start": start, "swa_window": window}
    own = {k: v for k, v in gradient.items() if k != "twice"}
    return dataclasses.replace(
        train,
        **{"rho": config.TrainFlags.rho, **own, **swa},
        end_step=steps,
        lr_anneal_steps=train.lr_anneal_steps * times,
        resume="auto",
    )


def passes(train: config.TrainFlags) -> float:
    """Gradients that a step takes, on average: 2 where it climbs first."""
    return 1 if train.optimizer == "adam" or not train.rho else 2


def changed(group) -> dict[str, Any]:
    """The flags that differ from their defaults, so that a new flag, if off, voids no cell."""
    fields = dataclasses.fields(group)
    return {f.name: v for f in fields if (v := getattr(group, f.name)) != f.default}


def _measures(flags, training: Training, average: str, data: str, store: str) -> dict[str, Cell]:
    """The cells of one model: samples and their distances, flatness, exposure bias."""
    s = flags.study
    made_of = {"training": training.cell.key, "average": average}
    run = {"seed": flags.run.seed, "dtype": flags.run.dtype}
    common = {"model_path": _checkpoint(flags, training, average), **run}
    on_data = common | changed(flags.data) | {"num_images": s.num_images}

    cells = {}
    for steps, bits in _sampled(s):
        name = f"fd_{steps}" + (f"_w{bits}" if bits else "")
        own = {"num_samples": s.num_samples, "batch_size": s.measure_batch, "quant": bits}
        samples = Cell("samples", common | own | {"timestep_respacing": str(steps)}, made_of, store)
        distance = {
            "samples": samples.folder,
            "data_dir": flags.data.data_dir,
            "image_size": flags.model.image_size,
            "features": features_of(flags),
            "inception_weights": s.inception_weights,
        }
        cells[f"samples{name[2:]}"] = samples
        cells[name] = Cell("distance", distance, {"samples": samples.key, "data": data}, store)
    few = {"num_draws": s.num_draws}
    for kind, own in {
        "LPF": few | {"sigma": s.sigma},
        "MC": few | {"radius": s.radius},
        "HESSIAN": {"num_draws": 2, "num_eigenvalues": 1},
    }.items():
        cells[kind] = Cell(
            kind, on_data | own | {"flatness": kind}, made_of | {"data": data}, store
        )
    steps = {"timestep_respacing": str(whole_numbers("sampling_steps", s.sampling_steps)[0])}
    cells["exposure"] = Cell("exposure", on_data | steps, made_of | {"data": data}, store)
    return cells


def _sampled(s: config.StudyFlags) -> list[tuple[int, int]]:
    """(steps, bits) of each set of samples; 0 bits: fp32."""
    steps = whole_numbers("sampling_steps", s.sampling_steps)
    return [(n, 0) for n in steps] + [(steps[0], b) for b in whole_numbers("bits", s.bits)]


def _checkpoint(flags, training: Training, average: str) -> str:
    rate = float(flags.train.ema_rate.split(",")[0] or 0)
    name = {
        "none": checkpoint.model_name(training.steps),
        "ema": checkpoint.ema_name(rate, training.steps),
        "swa": checkpoint.swa_name(training.steps),
    }[average]
    return os.path.join(training.cell.folder, name)
