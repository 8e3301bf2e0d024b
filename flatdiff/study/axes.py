"""The axes of a study, from its flags: gradients, averages, and the training of each gradient.

ValueError says which flag makes no sense, and what was expected.
"""

import argparse
import dataclasses
import math
from typing import Any

from ..flags import config
from ..flags.parse import reader

AVERAGES = ("none", "ema", "swa")
NOT_FOR_STUDIES = {  # flags of its command line, and why
    "optimizer": "--gradient says what is trained",
    "use_swa": "--average says what is averaged",
    "resume": "a study goes on by itself",
    "resume_checkpoint": "a study trains from the start",
    "timestep_respacing": "--sampling_steps says in how many steps it samples",
    "eps_scaler": "it samples with the network's own noise; give --eps_scaler to image_sample.py",
    "eps_scaler_slope": "it samples with the network's own noise; give it to image_sample.py",
}


def gradients(flags) -> list[dict[str, Any]]:
    """Of each kind of training, the TrainFlags that make it: in the order asked, then `matched`."""
    radii = numbers("rho", flags.study.rho)
    found = []
    for text in filter(None, map(str.strip, flags.study.gradient.split(","))):
        changed = _train_flags(text)
        climbs = changed["optimizer"] != "adam"
        crossed = climbs and "rho" not in changed
        found += [changed | {"rho": rho} for rho in radii] if crossed else [changed]
    if not found:
        raise ValueError("--gradient is empty; expected names as adam,adam-sam")
    found = list({name_of(g): g for g in found}.values())
    return found + (matched(flags, found) if flags.study.matched else [])


def matched(flags, found: list[dict]) -> list[dict]:
    """Adam of as many `times` the steps as a gradient that climbs costs; none that is found."""
    trainings = [train_group(flags, gradient) for gradient in found]
    known = [train for train in trainings if not climbs(train)]
    of_one = cost(train_group(flags, {"optimizer": "adam"}))
    added = []
    for times in (cost(train) / of_one for train in trainings if climbs(train)):
        times = float(f"{times:.3g}")
        adam = {"optimizer": "adam"} | ({"times": times} if times != 1 else {})
        train = train_group(flags, adam)
        if train not in known:
            known.append(train)
            added.append(adam)
    return added


def _train_flags(text: str) -> dict[str, Any]:
    """Text such as "adam-sam sam_sync=True" -> {"optimizer": "adam-sam", "sam_sync": True}."""
    fields = {f.name: f for f in dataclasses.fields(config.TrainFlags)}
    first, *others = text.split()
    values = {}
    for part in [f"optimizer={first}", *others]:
        name, _, value = part.partition("=")
        if name not in fields or (name in NOT_FOR_STUDIES and name != "optimizer"):
            raise ValueError(
                f"--gradient {text!r}: {name!r} is no flag of training; expected an optimizer, "
                "then name=value with flags as rho or sam_sync"
            )
        try:
            values[name] = reader(fields[name])(value)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--gradient {text!r}, {name}: {error}") from None
    return values


def name_of(gradient: dict) -> str:
    others = [f"{k}={v}" for k, v in gradient.items() if k not in ("optimizer", "times")]
    steps = [f"{gradient['times']:g}x steps"] if "times" in gradient else []
    return " ".join([gradient["optimizer"], *others, *steps])


def averages_of(flags) -> list[str]:
    names = list(dict.fromkeys(a.strip() for a in flags.study.average.split(",") if a.strip()))
    for name in names:
        if name not in AVERAGES:
            raise ValueError(f"--average: got {name!r}, expected {', '.join(AVERAGES)}")
    if not names:
        raise ValueError(f"--average is empty; expected some of {', '.join(AVERAGES)}")
    return names


def numbers(name: str, text: str) -> list[float]:
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
    values = numbers(name, text) if text.strip() else []
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


# The training of a gradient


def train_group(flags, gradient: dict) -> config.TrainFlags:
    """TrainFlags of one kind of training.

    It collects SWA wherever the rate is constant, which does not touch its weights, over the last
    quarter of the steps (Izmailov et al. 2018, section 5: 75 % of the budget before) in 20 windows,
    unless --swa_start and --swa_window say otherwise. Schedules grow with the steps.
    """
    own = {k: v for k, v in gradient.items() if k != "times"}
    train = dataclasses.replace(flags.train, **{"rho": config.TrainFlags.rho, **own})
    times = gradient.get("times", 1)
    steps = round((train.end_step or train.lr_anneal_steps) * times)
    swa = {}
    if not train.lr_anneal_steps:
        start = round(train.swa_start * times) if "swa_start" in flags.given else steps * 3 // 4
        window = train.swa_window if "swa_window" in flags.given else max(1, (steps - start) // 20)
        swa = {"use_swa": True, "swa_start": start, "swa_window": window}
    return dataclasses.replace(
        train,
        **swa,
        end_step=steps,
        lr_anneal_steps=round(train.lr_anneal_steps * times),
        resume="auto",
    )


def climbs(train: config.TrainFlags) -> bool:
    return train.optimizer != "adam" and train.rho > 0


def cost(train: config.TrainFlags) -> float:
    """Images that a gradient is taken of, on each rank."""
    return train.end_step * train.batch_size * passes(train)


def passes(train: config.TrainFlags) -> float:
    """Gradients that a step takes on average, as shares of the batch: 2 for plain SAM."""
    if not climbs(train) or train.optimizer == "adam-msam":
        return 1
    steps = math.ceil(max(0, train.end_step - train.sam_start) / train.sam_every)
    share = math.ceil(train.sam_share * train.batch_size) / train.batch_size  # whole images
    return 1 + share * steps / train.end_step
