"""Samples against a reference, by flags, which say what is measured; how, says the judge."""

import functools
from collections.abc import Callable

import numpy as np

from ..judge import evaluate
from ..judge.features import load_features
from ..models import run_util
from ..report import compare
from ..report.text import table
from ..store import finite
from ..world import dist_util, logger

LARGEST_REFERENCE = 50_000  # images


def measure_by(features: str, inception_weights: str = "") -> Callable[..., dict]:
    """A function of (reference, samples) that gives the judge's dict of metrics.

    Both are uint8 [N, H, W, 3], or the path of an npz or a folder. ValueError for features that
    cannot be had. The key of the Frechet distance is `distance_name(features)`.
    """
    return functools.partial(evaluate.evaluate, features=_network(features, inception_weights))


def floor_by(features: str, inception_weights: str = "") -> Callable[..., dict | None]:
    """A function of (reference, number) that gives the Frechet distances of so many of its own
    images: {values, infinities} of a few draws, None for a reference without images."""
    return functools.partial(evaluate.floor_of, features=_network(features, inception_weights))


@functools.lru_cache(maxsize=1)
def _network(features: str, inception_weights: str):
    return load_features(features, inception_weights or None, str(dist_util.dev()))


def distance_name(features: str) -> str:
    """FID for Inception's features, and FD-lite0, FD-digits for others."""
    return "FID" if features == "inception" else f"FD-{features}"


def reference_of(dataset, seed: int = 0) -> np.ndarray:
    """The images as training sees them, not mirrored: all, or a random 50,000 of more."""
    order = np.random.default_rng(seed).permutation(dataset.num_images)[:LARGEST_REFERENCE]
    return np.stack([dataset.image(i) for i in np.sort(order)])


def of_runs(folders: list[str], flags) -> list[dict]:
    """The distances of the samples in each run's folder from the reference of a CompareFlags.

    A row for each run and kind of samples (fp32, w8, w8a8, ...): run, kind, num_samples, metric,
    value, error (standard error over samples), infinity (extrapolated to endless samples; None
    where it cannot be). Then a row of real images for each number of samples (see `floor_by`).
    """
    by, name = (flags.features, flags.inception_weights), distance_name(flags.features)
    measure = measure_by(*by)
    rows, warnings = [], {}
    for folder in folders:
        for kind, file in compare.samples_of(folder).items():
            result = measure(flags.reference, file)
            metrics = result["metrics"]
            warnings |= dict.fromkeys(result["warnings"])
            rows.append(
                {
                    "run": compare.run_name(folder),
                    "kind": compare.told(kind),
                    "num_samples": result["num_samples"],
                    "metric": name,
                    "value": metrics[name],
                    "error": metrics.get(f"{name}_error"),
                    "infinity": metrics.get(f"{name}_infinity"),
                }
            )
    for row in rows:
        finite.check({name: row["value"]}, f"distance of {row['run']}")
    for warning in warnings:
        logger.warn(f"warning: {warning}")
    numbers = dict.fromkeys(row["num_samples"] for row in rows)
    return rows + [row for n in numbers for row in _floor(floor_by(*by), flags.reference, n, name)]


def _floor(floor: Callable, reference: str, number: int, name: str) -> list[dict]:
    """The row of real images: the mean of a few draws, and the scatter that one of them has."""
    found = floor(reference, number)
    if found is None:
        return []
    about = {"run": compare.REAL, "kind": "", "num_samples": number, "metric": name}
    values = found["values"]
    return [
        about
        | {"value": float(np.mean(values)), "error": float(np.std(values, ddof=1))}
        | {"infinity": float(np.mean(found["infinities"]))}
    ]


def text(rows: list[dict]) -> str:
    """The rows of `of_runs` as a table to read."""
    header = ["run", "weights", "samples", rows[0]["metric"], "+-", "for endless samples"]
    lines = [header]
    for row in rows:
        numbers = (
            f"{row[k]:.4g}" if row[k] is not None else "" for k in ("value", "error", "infinity")
        )
        lines.append([row["run"], row["kind"], str(row["num_samples"]), *numbers])
    return (
        f"{table(lines)}\n+-: one standard error over samples. {compare.REAL}: as many of the "
        "reference's own, drawn with replacement; a perfect copy of it would get that"
    )


def on_the_fly(flags, dataset) -> dict:
    """The arguments of TrainLoop that make it log a Frechet distance every --eval_interval steps.

    Of samples of the first EMA (or the weights) in at most 100 steps, drawn by all ranks, against
    the data of the training. The samples are functions of (seed, index), so that the noise in the
    curve is common to all its points, and to all runs.
    """
    e = flags.evaluation
    if not e.eval_interval:
        return {}
    measure = measure_by(e.features, e.inception_weights) if dist_util.rank() == 0 else None
    reference = reference_of(dataset, flags.run.seed) if measure else None
    name = distance_name(e.features)

    def log_distance(loop):
        with loop.averaged() as model:
            samples = _draw(model, flags, dataset)
        if measure:
            metrics = measure(reference, samples)["metrics"]
            logger.logkvs({k: metrics[k] for k in (name, f"{name}_error", f"{name}_infinity")})
            error = metrics[f"{name}_error"]
            logger.log(f"{name} at step {loop.step}: {metrics[name]:.4g} +- {error:.2g}")

    return {"eval_interval": e.eval_interval, "evaluate": log_distance}


def _draw(model, flags, dataset):
    """uint8 [eval_samples, H, W, 3], of all ranks; the order is not that of the indices."""
    e, draw = flags.evaluation, run_util.preview(flags, dataset)
    mine = range(dist_util.rank(), e.eval_samples, dist_util.world_size())
    batches = [mine[i : i + e.eval_batch] for i in range(0, len(mine), e.eval_batch)]
    parts = dist_util.all_gather_object([draw(model, batch) for batch in batches])
    return np.concatenate([part for rank in parts for part in rank])
