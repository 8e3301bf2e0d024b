"""Samples against a reference, by flags, which say what is measured; how, says the judge."""

import functools
import glob
import itertools
import os
from typing import Any

import numpy as np
import torch

from ..bars import Bar
from ..judge import evaluate, settings
from ..judge.features import Features, load_features
from ..judge.files import default_cache_dir
from ..judge.image_source import open_images
from ..models import run_util
from ..report import compare
from ..report.text import table
from ..store import checkpoint, finite
from ..world import dist_util, logger, stopping
from .frame import number

LARGEST_REFERENCE = 50_000  # images
COLUMNS = ("run", "kind", "num_samples", "metric", "value", "error", "infinity")


@functools.lru_cache(maxsize=1)
def network(features: str, inception_weights: str = "", dinov2_weights: str = "") -> Features:
    """Load what a distance is measured on, to this rank's device; ValueError if there is none."""
    given = inception_weights or None, str(dist_util.dev()), None, dinov2_weights or None
    return load_features(features, *given)


def reference_of(dataset, seed: int = 0) -> np.ndarray:
    """Return the images as training sees them, not mirrored: all, or a random 50,000 of more."""
    order = np.random.default_rng(seed).permutation(dataset.num_images)[:LARGEST_REFERENCE]
    return np.stack([dataset.image(i) for i in np.sort(order)])


def judge(asked, data, image_size: int, seed: int) -> tuple[Features, tuple, Any]:
    """Return the features that a FeatureFlags asks for, (mu, sigma) of the real images of a
    DataFlags, and these; the first rank is the first to train or to read what is kept. Warns of too
    few of its `num_samples`."""
    for turn in (dist_util.rank() == 0, dist_util.rank() > 0):
        if turn:
            features = network(asked.features, asked.inception_weights, asked.dinov2_weights)
            dataset = run_util.open_dataset(data, image_size)
            images = open_images(reference_of(dataset, seed))
            known = evaluate.measure(images, features, cache_dir=default_cache_dir(), progress=Bar)
        dist_util.barrier()
    if asked.num_samples <= features.dim:
        logger.warn(
            f"warning: {asked.num_samples} samples for {features.dim} features: their covariance "
            "is singular, and distances are too large; give more --num_samples"
        )
    return features, (known.mu, known.sigma), dataset


def of_runs(folders: list[str], reference: str, features: Features, **how) -> list[dict]:
    """Measure how far the samples in each run's folder are from the reference, an npz or a folder.

    Returns for each run and kind of samples (fp32, w8, w8a8, ...) what `evaluate` does, given
    `how`, and run, folder, kind, file. Samples in a folder of the run's follow it, with "again":
    they repeat its own. Last are real images for each number of samples, with their "floor".
    """
    found, warnings = [], {}
    for folder in folders:
        own = [(kind, file, False) for kind, file in compare.samples_of(folder).items()]
        again = [(kind, file, True) for kind, file in compare.repeats_of(folder)]
        for kind, file, repeats in own + again:
            result = evaluate.evaluate(reference, file, features, progress=Bar, **how)
            warnings |= dict.fromkeys(result["warnings"])
            about = {"run": compare.run_name(folder), "folder": folder, "again": repeats}
            about |= {"kind": compare.told(kind), "file": file, "metric": features.metric("FID")}
            finite.check(
                {about["metric"]: result["metrics"][about["metric"]]}, f"distance of {file}"
            )
            found.append(about | result)
    for warning in warnings:
        logger.warn(f"warning: {warning}")
    for n in dict.fromkeys(result["num_samples"] for result in found):
        if floor := evaluate.floor_of(reference, n, features, progress=Bar):
            about = {"run": compare.REAL, "kind": "", "metric": features.metric("FID")}
            found.append(about | {"num_samples": n, "floor": floor})
    return found


def rows_of(found: list[dict]) -> list[dict]:
    """Make of each result of `of_runs` a row of COLUMNS, and what else is known by its own name.

    error: over samples; infinity: extrapolated to endless samples, None where it cannot be. Of real
    images: the mean of a few draws, and one's scatter.
    """
    rows = []
    for result in (r for r in found if not r.get("again")):
        name = result["metric"]
        if floor := result.get("floor"):
            values, limits = floor["values"], floor["infinities"]
            numbers = map(float, (np.mean(values), np.std(values, ddof=1), np.mean(limits)))
            more = {}
        else:
            metrics = result["metrics"]
            numbers = [metrics.get(f"{name}{end}") for end in ("", "_error", "_infinity")]
            more = {k: v for k, v in metrics.items() if not k.startswith(name)}
        about = (result["run"], result["kind"], result["num_samples"], name)
        rows.append(dict(zip(COLUMNS, (*about, *numbers))) | more)
    return rows


def text(rows: list[dict]) -> str:
    """Write the rows of `rows_of` as a table to read."""
    names = [k for k in rows[0] if k not in COLUMNS and f"{k}_error" in rows[0]]
    names += [k for k in rows[0] if k.partition("-")[0] == "C_T"]
    header = ["run", "weights", "samples", rows[0]["metric"], "+-", "for endless samples"]
    header += [cell for name in names for cell in _cells(rows[0], name, (name, "+-"))]
    lines = [
        [row["run"], row["kind"], str(row["num_samples"]), *(number(row[k]) for k in COLUMNS[-3:])]
        + [
            number(row.get(k))
            for name in names
            for k in _cells(rows[0], name, (name, f"{name}_error"))
        ]
        for row in rows
    ]
    copies = (
        ". nearer: the share of samples that is nearer to training images than held-out images "
        "are; a fair model has 0.5, and C_T below -3 tells of copies"
    )
    return (
        f"{table([header, *lines])}\n"
        f"+-: one standard error over samples. {compare.REAL}: as many of the reference's own, "
        "drawn with replacement; a perfect copy of it would get that"
        + (copies if len(names) > 2 else "")
    )


def _cells(row: dict, name: str, both: tuple[str, str]) -> tuple[str, ...]:
    return both if f"{name}_error" in row else both[:1]


def differences(found: list[dict]) -> list[dict]:
    """Subtract from each result the first run's of its kind, and from the first run's its first:
    rows of run, weights, less, metric, difference, error, low, high, seen, verdict.

    seen: the smallest difference that could have been seen, in four of five such comparisons. All
    is over samples alone: another training would scatter more.
    """
    own = [r for r in found if "left_out" in r and not r["again"]]
    rows = []
    for result in own[1:]:
        same = [r for r in own if r["run"] == own[0]["run"] and r["kind"] == result["kind"]]
        base = same[0] if same and result["run"] != own[0]["run"] else own[0]
        for name in result["left_out"]:
            if name in base["left_out"]:
                d = evaluate.difference(result, base, name)
                about = {"run": result["run"], "weights": result["kind"], "metric": name}
                about["less"] = f"{base['run']} {base['kind']}"
                told = {"difference": d.value} | dict(list(d._asdict().items())[1:])
                rows.append(about | told | {"verdict": d.verdict})
    return rows


def differences_text(rows: list[dict]) -> str:
    """Write the rows of `differences` as a table to read, and how to."""
    header = ["run", "weights", "less", "", "difference", "+-", "95 % from", "to"]
    header += ["smallest that could be seen", "verdict"]
    names = ("run", "weights", "less", "metric", "difference", "error", "low", "high", "seen")
    lines = [[*(number(row[k]) for k in names), row["verdict"] or "unknown"] for row in rows]
    return (
        f"{table([header, *lines])}\n"
        "over samples alone (paired where they are equally many), the reference held fixed: other "
        "training seeds scatter more. Smallest: a true difference that four of five such pairs "
        "would show at 5 %. tie: nothing was seen, which is not equality; unknown: without an error"
    )


def block(found: list[dict]) -> list[str]:
    """Write the five settings that make these distances, a line each."""
    known = [r for r in found if "settings" in r and not r["again"]]
    told = [r["settings"] | {"weights": weights_of(r)} for r in known]
    return settings.lines(settings.common(told)) if told else []


def weights_of(result: dict) -> str:
    """Name the file of the run's folder whose weights a result of `of_runs` was drawn with, where
    the samples tell its hash; else what they tell."""
    word, _, hashed = result["settings"]["weights"].partition(" ")
    file = _file_of(result["folder"], hashed.split(",")[0]) if word == "checkpoint" else None
    return f"{file} of {result['run']} ({hashed})" if file else f"{word} {hashed}"


@functools.cache
def _file_of(folder: str, hashed: str) -> str | None:
    kinds = ("model", "ema_", "swa_", "average_")
    for file in itertools.chain(*(glob.glob(os.path.join(folder, f"{k}*.pt")) for k in kinds)):
        if checkpoint.sha256(file).startswith(hashed):
            return os.path.basename(file)
    return None


def on_the_fly(flags, dataset) -> dict:
    """Return arguments of TrainLoop that make it log a Frechet distance each --eval_interval steps:
    of samples of the first EMA (or the weights) in at most 100 steps, from the training's data.

    Samples are functions of (seed, index), so that all points of all runs have their noise alike.
    """
    e = flags.evaluation
    if not e.eval_interval:
        return {}
    judge = (
        network(e.features, e.inception_weights, e.dinov2_weights)
        if dist_util.rank() == 0
        else None
    )
    reference = reference_of(dataset, flags.run.seed) if judge else None
    if judge:  # before the first step: what is measured is kept for the first distance
        evaluate.measure(open_images(reference), judge, cache_dir=default_cache_dir())

    def log_distance(loop):
        with loop.averaged() as model:
            samples = _draw(model, flags, dataset)
        if len(samples) < e.eval_samples:
            logger.log(f"no distance of step {loop.step}: this was asked to end while it drew")
        elif judge:
            name = judge.metric("FID")
            metrics = evaluate.evaluate(reference, samples, judge, progress=Bar)["metrics"]
            logger.logkvs({k: metrics[k] for k in (name, f"{name}_error", f"{name}_infinity")})
            error = metrics[f"{name}_error"]
            logger.log(f"{name} at step {loop.step}: {metrics[name]:.4g} +- {error:.2g}")

    return {"eval_interval": e.eval_interval, "evaluate": log_distance}


def _draw(model, flags, dataset):
    """Draw uint8 [eval_samples, H, W, 3], by all ranks, fewer if one of them is asked to end; the
    order is not that of the indices."""
    e, draw = flags.evaluation, run_util.preview(flags, dataset)
    mine = range(dist_util.rank(), e.eval_samples, dist_util.world_size())
    batches = [mine[i : i + e.eval_batch] for i in range(0, len(mine), e.eval_batch)]
    with Bar(total=len(mine), desc="samples to judge", unit="image") as bar:
        wanted = (batch for batch in bar.turns(batches, 0, 1) if not stopping.asked())
        own = [torch.as_tensor(draw(model, batch)) for batch in wanted]
    drawn = [part.numpy() for rank in dist_util.all_gather_tensors(own) for part in rank]
    return np.concatenate(drawn) if drawn else []
