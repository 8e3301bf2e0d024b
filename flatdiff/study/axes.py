"""The axes of a study, from its flags: gradients, averages, and the training of each gradient."""

import argparse
import dataclasses
import math
from collections.abc import Container
from typing import Any

from ..flags import choices, config, parse

PLAIN = "adam"  # the gradient that all others are compared with
OF_ENTRIES = {  # of an axis: the flag that each entry begins with, and what others may follow
    "gradient": ("optimizer", "training", "rho or sam_sync"),
    "objective": ("objective", "the chain", "predicts or noise_levels"),
}
STEPS = "base_optimizer", "lr", "weight_decay", "lr_anneal_steps"  # flags of how steps are taken
NOT_FOR_STUDIES = {  # flags of its command line, and why
    "optimizer": "--gradient says what is trained",
    "use_swa": "--average says what is averaged",
    "averages": "--average says what is averaged",
    "resume": "a study goes on by itself",
    "resume_checkpoint": "a study trains from the start",
    "timestep_respacing": "--sampling_steps says in how many steps it samples",
    "eps_scaler": "it samples with the network's own noise; give --eps_scaler to image_sample.py",
    "eps_scaler_slope": "it samples with the network's own noise; give it to image_sample.py",
}


def gradients(flags) -> list[dict[str, Any]]:
    """Lists the TrainFlags that make each kind of training: in the order asked, then `matched`."""
    radii = numbers("rho", flags.study.rho)
    named = {}
    for text in parse.parts(flags.study.gradient):
        changed = entry("gradient", text, config.TrainFlags, NOT_FOR_STUDIES)
        radius = choices.entry(choices.GRADIENTS, changed["optimizer"]).radius
        if "rho" in changed and not radius:
            raise ValueError(
                f"--gradient {text!r}: {changed['optimizer'].split()[0]} finds its radius itself: "
                "leave rho out"
            )
        crossed = changed["optimizer"] != PLAIN and "rho" not in changed and radius
        for each in [changed | {"rho": rho} for rho in radii] if crossed else [changed]:
            named[name_of(each)] = each
    if not named:
        raise ValueError("--gradient is empty; expected names as adam,adam-sam")
    found = list(named.values())
    return found + (matched(flags, found) if flags.study.matched else [])


def matched(flags, found: list[dict]) -> list[dict]:
    """Adam of as many `times` the steps as a gradient that climbs costs, taken as that one takes
    them; none that is found."""
    trainings = [(gradient, train_group(flags, gradient)) for gradient in found]
    known, added = [train for _, train in trainings if not climbs(train)], []
    of_one = cost(train_group(flags, {"optimizer": PLAIN}))
    for gradient, climbing in ((g, train) for g, train in trainings if climbs(train)):
        times = float(f"{cost(climbing) / of_one:.3g}")
        adam = {"optimizer": PLAIN} | {k: v for k, v in gradient.items() if k in STEPS}
        if adam.get("lr_anneal_steps"):  # of Adam's own end
            adam["lr_anneal_steps"] = flags.train.end_step or flags.train.lr_anneal_steps
        adam |= {"times": times} if times != 1 else {}
        train = train_group(flags, adam)
        if train not in known:
            known.append(train)
            added.append(adam)
    return added


def entry(axis: str, text: str, group: type, not_for: Container[str]) -> dict[str, Any]:
    """Text such as "adam-sam sam_sync=True" -> {"optimizer": "adam-sam", "sam_sync": True}. Knobs
    of the gradient itself, which are no flags, stay behind its name."""
    named, of, as_in = OF_ENTRIES[axis]
    fields = {f.name: f for f in dataclasses.fields(group)}
    first, *others = text.split()
    values, knobs = {}, []
    for name, _, value in (part.partition("=") for part in [f"{named}={first}", *others]):
        if values and name in choices.knobs(fields[named].metadata["table"], first):
            knobs.append(f"{name}={value}")
            continue
        if values and (name not in fields or name in not_for):
            raise ValueError(
                f"--{axis} {text!r}: {name!r} is no flag of {of}; expected an {named}, then "
                f"name=value with flags as {as_in}"
            )
        try:
            values[name] = parse.read(fields[name], value)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--{axis} {text!r}, {name}: {error}") from None
    return values | {named: " ".join([first, *knobs])}


def name_of(gradient: dict) -> str:
    """What the tables call it."""
    others = [f"{k}={v}" for k, v in gradient.items() if k not in ("optimizer", "times")]
    steps = [f"{gradient['times']:g}x steps"] if "times" in gradient else []
    return " ".join([gradient["optimizer"], *others, *steps])


def names_of(gradients: list[dict]) -> list[str]:
    """What the tables call each: without what several share, which goes without saying."""
    shared = set.intersection(*(set(gradient.items()) for gradient in gradients))
    said = shared if len(gradients) > 1 else set()
    return [
        name_of({k: v for k, v in gradient.items() if k == "optimizer" or (k, v) not in said})
        for gradient in gradients
    ]


def alike(name: str, others: list[str]) -> list[str]:
    """The names of those that take their steps as the named one does; all, where none does."""

    def steps(of: str) -> set[str]:
        return {word for word in of.split() if word.partition("=")[0] in STEPS}

    return [other for other in others if steps(other) == steps(name)] or others


def averages_of(flags) -> list[str]:
    """The averages that are measured, as "none", "ema", or of the registry with knobs behind it."""
    known = ["none", *choices.AVERAGES]
    found = list(dict.fromkeys(parse.parts(flags.study.average)))
    for text in found:
        if text != "none" and text.split()[0] not in known[1:]:
            raise ValueError(f"--average: got {text!r}, expected {', '.join(known)}")
    if not found:
        raise ValueError(f"--average is empty; expected some of {', '.join(known)}")
    return found


def numbers(name: str, text: str) -> list[float]:
    """Numbers of 0 or more, each once."""
    expected = "numbers of 0 or more, separated by commas"
    return list(dict.fromkeys(parse.numbers(name, text, expected, lambda v: 0 <= v < math.inf)))


def lists_of(study: config.StudyFlags) -> dict[str, list[int]]:
    """The flags that are lists of whole numbers, each once, which may be empty."""
    how = "whole numbers separated by commas", lambda v: v >= 1 and v % 1 == 0
    texts = {name: getattr(study, name) for name in ("sampling_steps", "bits")}
    found = {name: parse.numbers(name, text, *how, empty=True) for name, text in texts.items()}
    return {name: list(dict.fromkeys(map(int, values))) for name, values in found.items()}


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
    if 0 < flags.train.keep_last < flags.study.checkpoints:
        raise ValueError(
            f"--checkpoints is {flags.study.checkpoints}, but --keep_last {flags.train.keep_last} "
            "deletes the older ones: give --keep_last 0, or as many"
        )
    if not lists_of(flags.study)["sampling_steps"]:
        raise ValueError("--sampling_steps is empty; expected numbers of steps, as 20,100")


def features_of(flags) -> str:
    """The features of the Frechet distances, by --features or what else was given."""
    if flags.study.features:
        return flags.study.features
    if "digits" in flags.presets and "data_dir" not in flags.given:
        return "digits"
    given = {"inception": flags.study.inception_weights, "dinov2": flags.study.dinov2_weights}
    return next((name for name, weights in given.items() if weights), "lite0")


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
    others = [a for a in averages_of(flags) if a not in ("none", "ema", "swa")]
    changed = {"averages": ",".join(others), "end_step": steps, "resume": "auto"}
    changed["lr_anneal_steps"] = anneal = round(train.lr_anneal_steps * times)
    if 0 < anneal < steps:
        raise ValueError(
            f"lr falls to 0 at lr_anneal_steps {anneal}, but {name_of(gradient)} ends at step "
            f"{steps}: give lr_anneal_steps of at least end_step, or 0"
        )
    if not train.lr_anneal_steps:
        start = round(train.swa_start * times) if "swa_start" in flags.given else steps * 3 // 4
        window = train.swa_window if "swa_window" in flags.given else max(1, (steps - start) // 20)
        changed |= {"use_swa": True, "swa_start": start, "swa_window": window}
    return dataclasses.replace(train, **changed)


def climbs(train: config.TrainFlags) -> bool:
    """Whether its gradient is another than plain Adam's."""
    by_rho = choices.entry(choices.GRADIENTS, train.optimizer).radius
    return train.optimizer != PLAIN and (train.rho > 0 or not by_rho)


def cost(train: config.TrainFlags) -> float:
    """Images that a gradient is taken of, on each rank."""
    return train.end_step * train.batch_size * passes(train)


def passes(train: config.TrainFlags) -> float:
    """Gradients that a step takes on average, as shares of the batch: 2 for plain SAM."""
    if not climbs(train):
        return 1
    more = choices.entry(choices.GRADIENTS, train.optimizer).passes - 1
    steps = math.ceil(max(0, train.end_step - train.sam_start) / train.sam_every)
    share = math.ceil(train.sam_share * train.batch_size) / train.batch_size  # whole images
    return 1 + more * share * steps / train.end_step
