"""Which average of a run is best, and whether last weights are flatter than it.

The best is chosen by images, noise, moves and samples that are none of the reported ones, so that
what is said of it is not the luck of the one that was best by chance.
"""

import dataclasses
import functools
import hashlib
import math
import os
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ..bars import Bar
from ..flags import config
from ..judge import evaluate
from ..models import generate, networks, run_util
from ..store import checkpoint
from ..weights import posthoc
from ..weights.perturb import replace
from ..world import logger
from ..world.arithmetic import arithmetic
from . import averages, evaluation, paired, quantized, sources
from .averages import LAST, SOUP, Average, Run
from .finished import Finished
from .found import made
from .found import measured as measured_by
from .kept import refuse_to_replace
from .run import settings

REPORTED, CHOOSING = 0, 1  # halves of the images, and seeds above --seed
BY = {"lpf": "the flattest", "fd": "the nearest to real images"}  # what is chosen, by which column


class Held(NamedTuple):
    """What is kept of one average to compare it with another."""

    row: dict[str, Any]
    subject: Any
    lpf: list
    hessian: list
    rounded: Any


class Bench:
    """Measures averages, on one half of the images or on the other."""

    def __init__(self, flags, finished: Finished):
        f, self.finished = flags.averages, finished
        same = {name: getattr(flags, name) for name in ("data", "model", "diffusion")}
        own = ("timestep_respacing", *(field.name for field in dataclasses.fields(f)))
        same["given"] = {k: v for k, v in flags.given.items() if k not in own}
        flat = _flatness(f)
        self.asked, self.lpf = f, made("LPF", flat)
        self.hessian = made("HESSIAN", dataclasses.replace(flat, num_draws=2))
        self.flags = [
            sources.exact(SimpleNamespace(**same, flatness=flat, run=_seeded(flags.run, half)))
            for half in (REPORTED, CHOOSING)
        ]
        self.judge = evaluation.network(f.features, f.inception_weights, f.dinov2_weights)
        self.halves = functools.cache(self._halves)
        self.reference = functools.cache(self._reference)

    @property
    def size(self) -> float:
        """The LPF's middle sigma."""
        return self.lpf.sizes[len(self.lpf.sizes) // 2]

    def tasks(self, half: int) -> int:
        """How many results `rises` and `report` wait for."""
        moves = len(self.lpf.sizes) * self.lpf.num_draws
        return moves + 1 + (half == REPORTED) * (1 + self.hessian.num_draws)

    def opened(self, average: Average, half: int, **more):
        flags = SimpleNamespace(**vars(self.flags[half]) | more)
        images = lambda *about: self.halves(*about)[half]  # noqa: E731
        return sources.opened(average.label, average.path, flags, images)

    def choose(self, average: Average) -> dict[str, float]:
        """Measure what an average is chosen by."""
        with self.opened(average, CHOOSING) as subject:
            model, _ = measured_by(self.lpf, subject, self.finished)
        rise = self.lpf.shown(model)["rise"]
        return {"lpf": rise, "fd": self.distance(average, CHOOSING)["value"]}

    def report(self, run: Run, average: Average) -> Held:
        """Measure all that is reported of an average."""
        with self.opened(average, REPORTED) as subject:
            model, lpf = measured_by(self.lpf, subject, self.finished)
            curved, hessian = measured_by(self.hessian, subject, self.finished)
        with self.opened(average, REPORTED, quant=_rounding(self.asked)) as rounded:
            pass
        (rise,) = (r for r in self.lpf.rows({"models": [model]}) if self._is_headline(subject, r))
        distance = self.distance(average, REPORTED)
        row = {"run": run.name, "average": average.label, "step": run.step, "width": average.width}
        row |= {"loss": subject.at_w[0, 0], "loss_error": subject.errors[0, 0]}
        row |= {"fd": distance["value"], "fd_error": distance["error"]}
        row |= {"lpf": rise["rise"], "lpf_error": rise["error_larger"]}
        errors = curved["residuals"][0], curved["eigenvalue_errors_images"][0]
        row |= {"eigenvalue": curved["eigenvalues"][0], "eigenvalue_error": max(errors)}
        row |= {"rounded": rounded.at_w[0, 0], "rounded_error": rounded.errors[0, 0]}
        about = {"residual": average.residual, "off_online": averages.off_online(run, average)}
        row = {k: float(v) if hasattr(v, "item") else v for k, v in row.items()}
        return Held(row | about | {"path": average.path}, subject, lpf, hessian, rounded)

    def _is_headline(self, subject, row: dict) -> bool:
        return (row["term"], row["part"], row["sigma"]) == (subject.terms[0], "all", self.size)

    def distance(self, average: Average, half: int) -> dict[str, float]:
        """Draw samples, and measure their Frechet distance and its error."""
        f, flags = self.asked, self.flags[half]
        steps = {"timestep_respacing": str(f.sampling_steps)}
        more = {"sample": config.SampleFlags(model_path=average.path, sampler=f.sampler)}
        more |= {"diffusion": dataclasses.replace(flags.diffusion, **steps)}
        flags = SimpleNamespace(**vars(flags) | more | {"given": flags.given | steps})

        def draw() -> dict[str, float]:
            model, chain = networks.from_checkpoint(average.path, flags)
            of, starts = (
                generate.sampler(model, chain, flags),
                range(0, f.num_samples, f.batch_size),
            )
            parts = [range(i, min(i + f.batch_size, f.num_samples)) for i in starts]
            with Bar(total=f.num_samples, desc=f"samples of {average.label}", unit="image") as bar:
                images = np.concatenate([of(list(part))[0] for part in bar.turns(parts, 0, 1)])
            reference, _ = self.reference(images.shape[1])
            found = evaluate.evaluate(reference, images, self.judge)["metrics"]
            name = self.judge.metric("FID")
            return {"value": found[name], "error": found[f"{name}_error"]}

        size = checkpoint.config_of(average.path)[0]["model"]["image_size"]
        made_of = [generate.key(flags), f.num_samples, f.features, self.reference(size)[1]]
        key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
        return self.finished.compute({"distance": draw}, of=key)[0]

    def soup(self, run: Run) -> Average:
        """Search which of a run's model files lower the loss on the images to choose by."""
        paths = list(run.models.values())
        hashes = [checkpoint.sha256(path)[:16] for path in paths]
        last = Average(LAST, paths[-1], 0.0)
        with self.opened(last, CHOOSING) as subject:
            names = [name for name, _ in subject.model.named_parameters()]

            def loss_at(chosen: list[int]) -> float:
                files = (checkpoint.load(paths[i]) for i in chosen)
                mean = posthoc.combined((1 / len(chosen), weights) for weights in files)
                moved = replace([mean[name].to(subject.device) for name in names])
                return subject.at(moved)["losses"][0][0]

            def loss_of(chosen: list[int]) -> float:
                key = "mean of " + " ".join(hashes[i] for i in chosen)
                self.finished.expect(1)
                task = functools.partial(loss_at, chosen)
                return self.finished.compute({key: task}, of=subject.key)[0]

            chosen = averages.greedy(len(paths), loss_of)
        steps = sorted([*run.models][i] for i in chosen)
        logger.log(f"{run.name}, soup of the steps {', '.join(map(str, steps))}")
        return averages.mean_of(run, SOUP, steps)

    def _halves(self, *model) -> list:
        """The images of both halves, of which none is in both."""
        wanted = self.asked.num_images
        return sources.load_halves(self.flags[REPORTED], wanted, model, "to choose by")

    def _reference(self, size: int) -> tuple[np.ndarray, str]:
        """Real images, and a hash of them."""
        dataset = run_util.open_dataset(self.flags[REPORTED].data, size)
        images = evaluation.reference_of(dataset, self.flags[REPORTED].run.seed)
        return images, hashlib.sha256(images.tobytes()).hexdigest()[:16]


def _flatness(f) -> config.FlatnessFlags:
    same = {name: getattr(f, name) for name in ("sigma", "num_draws", "num_images", "batch_size")}
    return config.FlatnessFlags(**same, num_eigenvalues=1)


def _rounding(f) -> config.RoundingFlags:
    return config.RoundingFlags(quant=f.bits)


def _seeded(run, half: int):
    return dataclasses.replace(run, seed=run.seed + half)


def check(flags) -> None:
    """Raise ValueError for flags that make no sense, before anything is made."""
    f = flags.averages
    if not f.measure:
        return
    if not flags.data.data_dir:
        raise ValueError(
            "no data: give --data_dir, the images that are measured on, or --measure False"
        )
    made("LPF", _flatness(f))
    quantized.settings(_rounding(f), "", {})
    generate.step_of(f.sampler)


@arithmetic(tf32=False)
def measured(flags, runs: list[tuple[Run, list[Average]]], folder: str) -> dict:
    """Write the averages of the runs, and measure them: a record of "settings", "averages" (rows),
    "chosen" (labels of the first run by column), "comparisons" (rows) and "answers"."""
    record = {"settings": settings(flags), "averages": []}
    refuse_to_replace(os.path.join(folder, "averages.json"), record["settings"])
    with Finished(os.path.join(folder, "averages_parts")) as finished:
        bench = Bench(flags, finished) if flags.data.data_dir else None
        runs = [(run, [_searched(bench, run, a) for a in made_of]) for run, made_of in runs]
        for run, made_of in runs:
            averages.write(made_of)
            for average in made_of:
                logger.log(f"{run.name}, {average.label}: {average.path}")
        if not flags.averages.measure:
            return record | {"averages": [_unmeasured(*ra) for ra in _each(runs)]}
        (run, own), (challenger, _) = runs[0], runs[-1]
        _refuse_unlike(run, challenger)
        candidates = [a for a in own if a.label != LAST]
        finished.expect(len(candidates) * bench.tasks(CHOOSING))
        finished.expect(sum(len(m) for _, m in runs) * bench.tasks(REPORTED))
        by = {a.label: bench.choose(a) for a in candidates}
        chosen = {c: min(by, key=lambda label: by[label][c]) for c in (BY if by else ())}
        kept = {(run.folder, label) for label in chosen.values()} | {(challenger.folder, LAST)}
        held = {}
        for run_, average in _each(runs):
            found, key = bench.report(run_, average), (run_.folder, average.label)
            record["averages"].append(found.row)
            held |= {key: found} if key in kept else {}
    one = held[challenger.folder, LAST]
    against = {c: held[run.folder, label] for c, label in chosen.items()}
    rows = [
        r | {"chosen_by": c} for c, other in against.items() for r in compared(bench, one, other)
    ]
    record |= {"chosen": chosen, "choosing": by, "comparisons": rows}
    return record | {"answers": [answer(rows, c, one, against[c], len(by)) for c in against]}


def _each(runs):
    return [(run, average) for run, made_of in runs for average in made_of]


def _searched(bench: Bench | None, run: Run, average: Average) -> Average:
    if average.label != SOUP:
        return average
    if bench is None:
        raise ValueError("a soup is searched by the loss on images: give --data_dir too")
    return bench.soup(run)


def _unmeasured(run: Run, average: Average) -> dict:
    about = {"run": run.name, "average": average.label, "step": run.step, "width": average.width}
    about |= {"residual": average.residual, "off_online": averages.off_online(run, average)}
    return about | {"path": average.path}


def _refuse_unlike(one: Run, other: Run) -> None:
    """ValueError for two runs whose losses are no numbers to compare."""
    chains = [checkpoint.config_in(run.folder) for run in (one, other)]
    for group, names in (("diffusion", chains[0]["diffusion"]), ("model", ["image_size"])):
        for name in names:
            was, now = (chain[group].get(name) for chain in chains)
            if was != now and name != "input_pertub":
                raise ValueError(
                    f"{name} is {was!r} in {one.folder} and {now!r} in {other.folder}: their "
                    "losses are no numbers to compare; give them one by one"
                )


def compared(bench: Bench, one: Held, other: Held) -> list[dict]:
    """Return one's numbers less another's: quantity, difference, error, and a 95 % interval; paired
    by image, noise and move, but for the distances, whose errors are added."""
    lpf = bench.lpf.differences(*((h.subject, bench.lpf, h.lpf) for h in (one, other)))
    hessian = bench.hessian.differences(
        *((h.subject, bench.hessian, h.hessian) for h in (one, other))
    )
    term = one.subject.terms[0]
    found = {
        "lpf": next(r for r in lpf if (r["term"], r["size"]) == (term, bench.size)),
        "eigenvalue": next(r for r in hessian if r["size"] == 1),
        "loss": _of_losses(one.subject, other.subject),
        "rounded": _of_losses(one.rounded, other.rounded),
    }
    error = math.hypot(one.row["fd_error"], other.row["fd_error"])
    found["fd"] = paired.interval(one.row["fd"] - other.row["fd"], 0.0, 2, error)
    about = {"run": one.row["run"], "against_run": other.row["run"]}
    about |= {"average": one.row["average"], "against": other.row["average"]}
    ends = ("difference", "error", "low", "high")
    return [about | {"quantity": q} | {k: r[k] for k in ends} for q, r in found.items()]


def _of_losses(one, other) -> dict[str, float]:
    """The difference of two networks' losses, paired by image."""
    error = paired.over_examples(one, other, one.own[0], other.own[0], one.terms[0])
    return paired.interval(float(one.at_w[0, 0] - other.at_w[0, 0]), 0.0, 2, error)


def answer(rows: list[dict], by: str, one: Held, other: Held, count: int) -> str:
    """Say in a sentence whether one is flatter than the best of so many averages."""
    (row,) = (r for r in rows if (r["chosen_by"], r["quantity"]) == (by, "lpf"))
    told = "No" if row["low"] > 0 else "Yes" if row["high"] < 0 else "It cannot be told"
    base = other.row["lpf"]
    low, middle, high = (f"{100 * row[k] / base:+.3g}" for k in ("low", "difference", "high"))
    return (
        f"Is {row['run']} ({row['average']} weights) flatter than {row['against']} of "
        f"{row['against_run']}, {BY[by]} of its {count} averages? {told}: LPF is "
        f"{one.row['lpf']:.3g} against {base:.3g}, {middle} % ({low} to {high} %, 95 %, paired by "
        "image and move)"
    )
