"""Samples against a reference: every metric that the features allow, as one dict.

    from flatdiff.judge.evaluate import evaluate
    evaluate(reference_images, sample_images, "lite0")["metrics"]["FD-lite0"]

The features of a reference are kept on disk under the hash of its contents and of the network.
"""

import hashlib
import math
import os
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import jackknife, kernel_distance, power
from .features import Features, load_features, silent
from .files import default_cache_dir, keep, kept
from .frechet import distance_with_error, floor, frechet_distance, statistics
from .image_source import check_same_size, open_images
from .inception_score import inception_score
from .memorization import FEWEST, memorization
from .precision_recall import NEIGHBOURS, precision_recall
from .settings import settings
from .sliced import sliced_distance


@dataclass
class Measured:
    """Features of a set of images, on the CPU; `pool` is None where only statistics are known."""

    num_images: int
    pool: Tensor | None  # [N, D] float32
    mu: Tensor  # [D] float64
    sigma: Tensor  # [D, D] float64
    mu_s: Tensor | None = None  # of the spatial features, for sFID
    sigma_s: Tensor | None = None
    cached: str = ""  # where they were read from
    notes: list[str] = field(default_factory=list)  # on how its pictures were read


def evaluate(
    reference,
    samples,
    features: str | Features,
    *,
    batch_size: int = 64,
    cache_dir: str | None = None,
    seed: int = 0,
    progress=silent,
    transparent: str = "white",
    train=None,
    held_out=None,
) -> dict:
    """Compare two sets of images, uint8 arrays [N, H, W, 3] or paths of an .npz or a folder.

    features: a name ("lite0", "digits"), or what `load_features` returned, to load it once.
    cache_dir: default ~/.cache/flatdiff; "" keeps nothing. seed: of all subsets drawn.
    progress: a class of bars, as tqdm.
    transparent: pictures of a folder are laid on "white"; "refuse" them; "drop" their alpha.
    train, held_out: images that the model was trained on, and that it was not, to look for copies.
    Returns {features, feature_dim, num_reference, num_samples, metrics: {name: float}, left_out:
    {name: [10]} of `jackknife`, settings: the five texts of `settings`, warnings}. A metric that
    was not possible is absent.
    """
    cache_dir = default_cache_dir() if cache_dir is None else cache_dir
    if isinstance(features, str):
        features = load_features(features, cache_dir=cache_dir)
    reference, samples = (open_images(x, transparent) for x in (reference, samples))
    check_same_size(reference, samples)
    if samples.num_images == 0:
        raise ValueError(f"{samples.name} has statistics only; the samples must be images in arr_0")
    others = _opened(train, held_out, samples, transparent)
    known = measure(reference, features, batch_size, cache_dir, progress)
    found = measure(samples, features, batch_size, "", progress, use_statistics=False)
    metrics, left_out = compare(known, found, features, seed, progress)
    warnings = cautions(known, found, features)
    if others:
        pools = [measure(x, features, batch_size, cache_dir, progress).pool for x in others]
        more, said = copies(others, pools, found, features)
        metrics, warnings = metrics | more, warnings + said
    return {
        "features": features.name,
        "feature_dim": features.dim,
        "num_reference": known.num_images,
        "num_samples": found.num_images,
        "reference_cache": known.cached,
        "metrics": metrics,
        "left_out": left_out,
        "settings": settings(reference, samples, known, found, features),
        "warnings": warnings,
    }


def _opened(train, held_out, samples, transparent):
    if train is None and held_out is None:
        return []
    if train is None or held_out is None:
        raise ValueError(
            "a test for copies needs the training images and held-out images of the same source: "
            f"got only the {'held-out images' if train is None else 'training images'}"
        )
    others = [open_images(x, transparent) for x in (train, held_out)]
    for other in others:
        check_same_size(other, samples)
    return others


def unseen(train, held_out) -> Tensor:
    """Which of the held-out images are none of the training images, pixel by pixel: bool [N].
    ValueError where too few are left to look for copies with."""

    def hashes(images):
        batches = images.batches(64)
        return [hashlib.sha256(image.tobytes()).digest() for batch in batches for image in batch]

    known, others = set(hashes(train)), hashes(held_out)
    new = torch.tensor([one not in known for one in others], dtype=torch.bool)
    if int(new.sum()) < min(FEWEST, len(new)):
        raise ValueError(
            f"{len(new) - int(new.sum())} of the {len(new)} held-out images {held_out.name} are "
            f"also in {train.name}: a test for copies needs {FEWEST} that nobody trained on"
        )
    return new


def floor_of(
    reference,
    num_samples: int,
    features: Features,
    *,
    batch_size: int = 64,
    cache_dir: str | None = None,
    seed: int = 0,
    transparent: str = "white",
    progress=silent,
) -> dict[str, list[float]] | None:
    """The Frechet distances (`frechet.floor`) of num_samples images of the reference itself.

    None for a reference that has statistics only, or for fewer than 4 samples.
    """
    cache_dir = default_cache_dir() if cache_dir is None else cache_dir
    reference = open_images(reference, transparent)
    known = measure(reference, features, batch_size, cache_dir, progress)
    if known.pool is None or num_samples < 4:
        return None
    return floor(known.pool, num_samples, seed=seed)


def measure(
    images, features: Features, batch_size=64, cache_dir="", progress=silent, use_statistics=True
) -> Measured:
    """Features and statistics of an image source; from the cache if they are there."""
    given = {}
    if use_statistics and features.name == "inception":  # what a file carries is Inception's
        given = {key: torch.from_numpy(v).double() for key, v in images.statistics.items()}
        if given and given["mu"].shape != (features.dim,):
            raise ValueError(
                f"{images.name} has a mu of shape {list(given['mu'].shape)}; expected "
                f"[{features.dim}], Inception's pool_3"
            )
    if images.num_images == 0:
        if not given:
            raise ValueError(
                f"{images.name} has Inception's statistics only (mu, sigma); the features "
                f"{features.name} need its images, as arr_0"
            )
        return Measured(0, None, **given)
    path = ""
    if cache_dir:
        key = f"{features.name}-{features.fingerprint[:16]}-{images.fingerprint()[:16]}.npz"
        path = os.path.join(os.path.abspath(cache_dir), key)
    arrays, cached = kept(path) if path else None, path
    if arrays is None:
        arrays, cached = _compute(images, features, batch_size, progress), ""
        if path:
            keep(path, arrays)
    notes = [str(note) for note in arrays.pop("notes", ())]
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return Measured(images.num_images, **{**tensors, **given}, cached=cached, notes=notes)


def _compute(images, features, batch_size, progress):
    found = features.extract(images, batch_size, progress)
    mu, sigma = statistics(found["pool"])
    if bad := int((~torch.isfinite(found["pool"])).any(1).sum()):
        raise ValueError(
            f"the features {features.name} of {bad} images of {images.name} are NaN or infinite: "
            "their weights are damaged"
        )
    arrays = {"pool": found["pool"], "mu": mu, "sigma": sigma}
    if "spatial" in found:
        arrays["mu_s"], arrays["sigma_s"] = statistics(found["spatial"])
    return {key: value.numpy() for key, value in arrays.items()} | {"notes": list(images.notes)}


def compare(
    reference: Measured, samples: Measured, features: Features, seed=0, progress=silent
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The metrics by name, those without a value left out; and what the jackknife left of them."""
    fid, device = features.metric("FID"), features.device
    pool = samples.pool.to(device)
    mu, sigma = reference.mu.to(device), reference.sigma.to(device)
    distance = distance_with_error(mu, sigma, pool, seed)
    left_out = {fid: distance.pop("left_out")}
    metrics = {fid: distance.pop("value")} | {f"{fid}_{key}": v for key, v in distance.items()}
    if samples.mu_s is not None and reference.mu_s is not None:
        spatial = reference.mu_s, reference.sigma_s, samples.mu_s, samples.sigma_s
        metrics["sFID"] = frechet_distance(*spatial)
    if features.name == "inception":
        score, deviation = inception_score(pool, features.network.fc.weight)
        metrics |= {"IS": score, "IS_std": deviation}
    if reference.pool is not None and min(len(reference.pool), len(pool)) > NEIGHBOURS:
        known = reference.pool.to(device)
        for kind, measured in (("SW", _sliced), ("KID", _kernel)):
            found, left_out[features.metric(kind)] = measured(known, pool, seed)
            metrics |= {features.metric(kind) + end: value for end, value in found.items()}
        shares = precision_recall(known, pool, progress=progress)
        metrics |= zip(map(features.metric, ("precision", "recall")), shares)
    metrics = {key: value for key, value in metrics.items() if not math.isnan(value)}
    return metrics, {name: values for name, values in left_out.items() if values}


def _sliced(known, pool, seed):
    found = sliced_distance(known, pool, seed)
    told = {"": found["value"], "_error": found["error"], "_plain": found["plain"]}
    return told, found["left_out"]


def _kernel(known, pool, seed):
    mean, deviation = kernel_distance.kernel_distance(known, pool, seed)
    groups = kernel_distance.left_out(known, pool, seed)
    error = kernel_distance.error(groups, deviation)
    return {"": mean, "_std": deviation, "_error": error}, groups


def copies(images, pools: list[Tensor | None], samples: Measured, features) -> tuple[dict, list]:
    """The metrics of `memorization`, nearer, with its error, and C_T; and what a reader should
    know. images: sources of the training images and of those held out; pools: their features."""
    train, held_out = pools
    if train is None or held_out is None:
        raise ValueError("a test for copies needs images, and got an npz of statistics only")
    new = unseen(*images)
    left = len(new) - int(new.sum())
    said = f"{left} of {len(new)} held-out images are images trained on, and left out"
    found = memorization(train, held_out[new], samples.pool)
    nearer, statistic = features.metric("nearer"), features.metric("C_T")
    told = {nearer: found["share"], f"{nearer}_error": found["error"], statistic: found["C_T"]}
    told = {key: value for key, value in told.items() if not math.isnan(value)}
    return told, [said] * bool(left)


def difference(one: dict, other: dict, name: str) -> power.Difference:
    """How far the metric `name` of one result of `evaluate` is above that of another, with the
    smallest difference that could have been seen: over images, the reference held fixed."""
    values, groups = ([r[k].get(name, ()) for r in (one, other)] for k in ("metrics", "left_out"))
    subsets = [r["metrics"].get(f"{name}_std", 0.0) for r in (one, other)]
    more = sum(s**2 for s in subsets) / kernel_distance.NUM_SUBSETS
    paired = one["num_samples"] == other["num_samples"]
    return power.difference(values[0] - values[1], *groups, paired=paired, more=more)


def seen(result: dict) -> dict[str, float]:
    """The smallest difference, by metric, that could have been seen between this result and that of
    another set of as many images, of noise of its own and as large an error."""
    errors = {name: result["metrics"].get(f"{name}_error") for name in result["left_out"]}
    freedom = 2 * (jackknife.NUM_GROUPS - 1)
    told = {k: power.test(0, math.sqrt(2) * v, freedom).seen for k, v in errors.items() if v}
    return told


def cautions(reference: Measured, samples: Measured, features: Features) -> list[str]:
    """What a reader of the numbers should know."""
    said = list(dict.fromkeys(reference.notes + samples.notes))
    fid, dim = features.metric("FID"), features.dim
    for name, measured in (("reference", reference), ("samples", samples)):
        if 0 < measured.num_images <= dim:
            said.append(
                f"the {name} are {measured.num_images} images, no more than the {dim} features: "
                f"their covariance is singular and {fid} too large; compare it only at equal "
                "numbers of images"
            )
    if reference.pool is None:
        said.append("the reference has no images: no SW, KID, precision and recall")
    return said
