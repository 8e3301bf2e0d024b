"""Samples against a reference, by flags, which say what is measured; how, says the judge."""

import functools

import numpy as np

from ..judge import evaluate
from ..judge.features import Features, load_features
from ..models import run_util
from ..report import compare
from ..report.text import table
from ..store import finite
from ..world import dist_util, logger
from .frame import number

LARGEST_REFERENCE = 50_000  # images
COLUMNS = ("run", "kind", "num_samples", "metric", "value", "error", "infinity")


@functools.lru_cache(maxsize=1)
def network(features: str, inception_weights: str = "") -> Features:
    """Load what a distance is measured on, to this rank's device; ValueError if there is none."""
    return load_features(features, inception_weights or None, str(dist_util.dev()))


def reference_of(dataset, seed: int = 0) -> np.ndarray:
    """Return the images as training sees them, not mirrored: all, or a random 50,000 of more."""
    order = np.random.default_rng(seed).permutation(dataset.num_images)[:LARGEST_REFERENCE]
    return np.stack([dataset.image(i) for i in np.sort(order)])


def of_runs(folders: list[str], reference: str, features: Features) -> list[dict]:
    """Measure how far the samples in each run's folder are from the reference, an npz or a folder.

    Returns a row of COLUMNS for each run and kind of samples (fp32, w8, w8a8, ...); error: over
    samples; infinity: extrapolated to endless samples, None where it cannot be. Then one of real
    images for each number of samples (`floor_of`): the mean of a few draws, and one's scatter.
    """
    name = features.metric("FID")
    rows, warnings = [], {}
    for folder in folders:
        for kind, file in compare.samples_of(folder).items():
            result = evaluate.evaluate(reference, file, features)
            warnings |= dict.fromkeys(result["warnings"])
            numbers = [result["metrics"].get(f"{name}{end}") for end in ("", "_error", "_infinity")]
            about = (compare.run_name(folder), compare.told(kind), result["num_samples"], name)
            finite.check({name: numbers[0]}, f"distance of {about[0]}")
            rows.append(dict(zip(COLUMNS, (*about, *numbers))))
    for warning in warnings:
        logger.warn(f"warning: {warning}")
    for n in dict.fromkeys(row["num_samples"] for row in rows):
        if found := evaluate.floor_of(reference, n, features):
            values, limits = found["values"], found["infinities"]
            numbers = map(float, (np.mean(values), np.std(values, ddof=1), np.mean(limits)))
            rows.append(dict(zip(COLUMNS, (compare.REAL, "", n, name, *numbers))))
    return rows


def text(rows: list[dict]) -> str:
    """Write the rows of `of_runs` as a table to read."""
    header = ["run", "weights", "samples", rows[0]["metric"], "+-", "for endless samples"]
    lines = [
        [row["run"], row["kind"], str(row["num_samples"]), *(number(row[k]) for k in COLUMNS[-3:])]
        for row in rows
    ]
    return (
        f"{table([header, *lines])}\n"
        f"+-: one standard error over samples. {compare.REAL}: as many of the reference's own, "
        "drawn with replacement; a perfect copy of it would get that"
    )


def on_the_fly(flags, dataset) -> dict:
    """Return arguments of TrainLoop that make it log a Frechet distance each --eval_interval steps:
    of samples of the first EMA (or the weights) in at most 100 steps, from the training's data.

    Samples are functions of (seed, index), so that all points of all runs have their noise alike.
    """
    e = flags.evaluation
    if not e.eval_interval:
        return {}
    judge = network(e.features, e.inception_weights) if dist_util.rank() == 0 else None
    reference = reference_of(dataset, flags.run.seed) if judge else None

    def log_distance(loop):
        with loop.averaged() as model:
            samples = _draw(model, flags, dataset)
        if judge:
            name = judge.metric("FID")
            metrics = evaluate.evaluate(reference, samples, judge)["metrics"]
            logger.logkvs({k: metrics[k] for k in (name, f"{name}_error", f"{name}_infinity")})
            error = metrics[f"{name}_error"]
            logger.log(f"{name} at step {loop.step}: {metrics[name]:.4g} +- {error:.2g}")

    return {"eval_interval": e.eval_interval, "evaluate": log_distance}


def _draw(model, flags, dataset):
    """Draw uint8 [eval_samples, H, W, 3], by all ranks; the order is not that of the indices."""
    e, draw = flags.evaluation, run_util.preview(flags, dataset)
    mine = range(dist_util.rank(), e.eval_samples, dist_util.world_size())
    batches = [mine[i : i + e.eval_batch] for i in range(0, len(mine), e.eval_batch)]
    parts = dist_util.all_gather_object([draw(model, batch) for batch in batches])
    return np.concatenate([part for rank in parts for part in rank])
