"""Averages of a run as checkpoints beside it: of any length, from its snapshots, and of kept files.

posthoc 0.05 is a power-function EMA as wide as 0.05 of the updates since --posthoc_ema began, ema
0.999 one of that rate;
uniform is the mean of all kept model files, lawa 5 that of the newest five (Kaddour 2022), soup
that of those which lower the loss on images that are not reported (Wortsman et al. 2022).
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..bars import Bar
from ..flags import parse
from ..store import checkpoint, snapshots
from ..store.disk import reading
from ..weights import posthoc
from ..weights.perturb import distance
from ..world import dist_util

MODEL = re.compile(r"model(\d{6,})\.pt")
LIMIT = 0.1  # largest residual of what snapshots make: see `posthoc.Fit`
FIRST = 0.01  # largest share of the first weights, which an EMA has and no snapshot
LAST, SOUP = "last", "soup"


@dataclasses.dataclass(frozen=True)
class Average:
    """One of a run's: its file, its width as a share of all steps, and what it is made of: the
    share of each set of weights in a file. `residual`: what snapshots miss, see `posthoc.Fit`."""

    label: str
    path: str
    width: float
    shares: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    residual: float = 0.0


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder of a training: its snapshots and kept model files, by step, up to the last step."""

    folder: str
    step: int
    snapshots: list[snapshots.Snapshot]
    models: dict[int, str]

    @property
    def name(self) -> str:
        return os.path.basename(self.folder)

    @property
    def count(self) -> int:
        """Updates that the averages have seen."""
        return self.snapshots[-1].tracks[0].count if self.snapshots else self.step

    @property
    def known(self) -> list[tuple[posthoc.Profile, float]]:
        """The profiles that snapshots hold, and their counts."""
        tracks = (track for snapshot in self.snapshots for track in snapshot.tracks)
        return [(posthoc.power(*track), track.count) for track in tracks]

    def file(self, label: str) -> str:
        name = f"posthoc_{label.removeprefix('posthoc ').replace(' ', '_')}"
        return os.path.join(self.folder, checkpoint.average_name(name, self.step))


def runs_of(flags) -> list[tuple[Run, list[Average]]]:
    """Return the runs of --model_path, and the averages that flags ask of each, the last weights
    first; ValueError for what is not there, or cannot be made of it."""
    folders = [checkpoint.absolute(p) for p in parse.parts(flags.model_path)]
    if not 1 <= len(folders) <= 2:
        raise ValueError(
            f"--model_path names {len(folders)} folders; expected that of a run, or of two, "
            "separated by a comma, as runs/adam,runs/adam-sam"
        )
    found = [_run(folder, flags) for folder in folders]
    return [(run, _averages(run, flags)) for run in found]


def _run(folder: str, flags) -> Run:
    if not os.path.isdir(folder) or not checkpoint.config_in(folder):
        raise ValueError(
            f"--model_path: {folder} is no folder of a run; expected one that image_train.py has "
            "filled, with its config.json"
        )
    wanted = flags.lengths or flags.rates
    names = {n: int(m[1]) for n in checkpoint.names_in(folder) if (m := MODEL.fullmatch(n))}
    steps = snapshots.steps_in(folder) if wanted else sorted(names.values())
    step = flags.step or max(steps, default=0)
    if steps and step not in steps:
        raise ValueError(
            f"{folder} has nothing of step {step}; it has {', '.join(map(str, steps[-10:]))}"
        )
    held = _snapshots(folder, step) if wanted else []
    models = {s: os.path.join(folder, n) for n, s in names.items() if s <= step}
    if step not in models:
        raise ValueError(
            f"{folder} has no {checkpoint.model_name(step)}, the last weights that averages are "
            f"held against; give --step, one of {', '.join(map(str, [*models][-10:])) or 'none'}"
        )
    return Run(folder, step, held, dict(sorted(models.items())))


def _snapshots(folder: str, step: int) -> list[snapshots.Snapshot]:
    """Those that a run took on its way to a step, as the state of that says: others are left of
    stretches that were given up. Without such a file: all up to there."""
    state = os.path.join(folder, checkpoint.state_name(step))
    if not checkpoint.exists(state):
        return snapshots.snapshots_of(folder, range(step + 1))
    with reading(state):
        taken = checkpoint.load(state).get("snapshots", [])
    if step not in taken:
        raise ValueError(
            f"{folder} has a snapshot of step {step} that is none of the run which saved that step;"
            f" give --step, one of {', '.join(map(str, taken[-10:])) or 'none'}"
        )
    return snapshots.snapshots_of(folder, taken)


def _averages(run: Run, flags) -> list[Average]:
    told = "widths as shares of the steps since --posthoc_ema began, as 0.05,0.1"
    lengths = parse.numbers("lengths", flags.lengths, told, empty=True)
    profiles = {f"posthoc {s:g}": posthoc.power(s, run.count) for s in lengths}
    told = "shares kept per update, above 0 and below 1, as 0.99,0.995"
    rates = parse.numbers("rates", flags.rates, told, lambda rate: 0 < rate < 1, empty=True)
    profiles |= {f"ema {r:g}": posthoc.exponential(r, run.count) for r in rates}
    found = [_fitted(run, label, profile) for label, profile in profiles.items()]
    found += [_of_kept(run, label) for label in parse.parts(flags.kept)]
    return [Average(LAST, run.models[run.step], 0.0), *found]


def _fitted(run: Run, label: str, profile: posthoc.Profile) -> Average:
    """What snapshots make of a profile; ValueError where they do not reach it."""
    fit = posthoc.fit(run.known, profile, run.count)
    if fit.residual > LIMIT or profile(np.array(0.0)) > FIRST:
        raise ValueError(_beyond(run, label, profile, fit.residual))
    shares = iter(fit.shares.tolist())
    parts = {s.path: [next(shares) for _ in s.tracks] for s in run.snapshots}
    width = posthoc.width(profile, run.count) * run.count / run.step
    return Average(label, run.file(label), width, parts, fit.residual)


def _beyond(run: Run, label: str, profile: posthoc.Profile, residual: float) -> str:
    first = float(profile(np.array(0.0)))
    told = f"{label} is beyond what the {len(run.snapshots)} snapshots in {run.folder} can give"
    if first > FIRST:
        return f"{told}: {first:.1%} of it are the first weights, which are in none of them"
    lengths = np.geomspace(0.002, 0.28, 100)
    fits = (posthoc.fit(run.known, posthoc.power(s, run.count), run.count) for s in lengths)
    reached = [s for s, fit in zip(lengths, fits) if fit.residual <= LIMIT]
    return (
        f"{told}: they miss it by {residual:.0%} of its distance from the last weights (expected "
        f"{LIMIT:.0%} at most); they reach lengths of {min(reached):.3g} to {max(reached):.3g}, "
        "and snapshots more often reach shorter ones"
    )


def _of_kept(run: Run, label: str) -> Average:
    """The mean of kept model files; of a soup it is not known yet of which."""
    kind, _, number = label.partition(" ")
    if (kind, bool(number)) not in (("uniform", False), ("lawa", True), (SOUP, False)):
        raise ValueError(f"--kept {label!r}: expected uniform, lawa K (as lawa 5), or soup")
    steps = list(run.models)
    if number and not (number.isdigit() and 2 <= int(number) <= len(steps)):
        raise ValueError(
            f"--kept {label!r}: expected how many of the {len(steps)} model files in {run.folder}, "
            "2 or more"
        )
    if len(steps) < 2:
        raise ValueError(
            f"{run.folder} has one model file alone, which is no average: train with --keep_last 0 "
            'and a smaller --save_interval, or give --kept ""'
        )
    steps = steps[-int(number) :] if number else steps
    return mean_of(run, label, [] if kind == SOUP else steps)


def mean_of(run: Run, label: str, steps: Sequence[int]) -> Average:
    """Return the mean of the model files of these steps."""
    width = float(np.std(steps)) / run.step if steps else np.nan
    shares = {run.models[s]: [1 / len(steps)] for s in steps}
    return Average(label, run.file(label), width, shares)


def write(averages: Iterable[Average]) -> None:
    """Write the averages that are sums of files, each of which is read once; on one rank."""
    if dist_util.rank() == 0:
        made = [a for a in averages if a.shares]
        totals: dict[str, dict[str, Tensor]] = {a.path: {} for a in made}
        files = list(dict.fromkeys(f for a in made for f in a.shares))
        for file in Bar(files, "averaging", unit="file"):
            held = weights_in(file)
            for average in made:
                posthoc.combined(zip(average.shares.get(file, ()), held), totals[average.path])
        for path, total in totals.items():
            checkpoint.save({name: weight.float() for name, weight in total.items()}, path)
    dist_util.barrier()


def weights_in(file: str) -> list[dict[str, Tensor]]:
    """Return the sets of weights in a snapshot, or a model file's own."""
    content = checkpoint.load(file)
    return [track["weights"] for track in content["tracks"]] if "tracks" in content else [content]


def off_online(run: Run, average: Average) -> float | None:
    """Return how far the file of an average is from the one that training kept itself, as a share
    of its length; None where it kept none."""
    kind, _, number = average.label.partition(" ")
    labels = {"posthoc": f"average_power_sigma_rel={number}", "ema": f"ema_{number}"}
    online = os.path.join(run.folder, checkpoint.average_name(labels.get(kind, "none"), run.step))
    if not checkpoint.exists(online):
        return None
    ours, theirs = checkpoint.load(average.path), checkpoint.load(online)
    others = [theirs[name] for name in ours]
    return float(distance(list(ours.values()), others) / math.hypot(*torch._foreach_norm(others)))


def greedy(count: int, loss_of: Callable[[list[int]], float]) -> list[int]:
    """Return which of so many make a greedy soup (Wortsman et al. 2022, recipe 1): from the best
    on, each in the order of its own loss, if the mean with it has no larger loss than without."""
    alone = [loss_of([i]) for i in range(count)]
    first, *others = sorted(range(count), key=alone.__getitem__)
    chosen, best = [first], alone[first]
    for i in others:
        if (loss := loss_of([*chosen, i])) <= best:
            chosen, best = [*chosen, i], loss
    return chosen
