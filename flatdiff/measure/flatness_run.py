"""A study of flatness: checkpoints and flags in, a record of all that was measured out.

Randomness is a function of the seed and of a draw's number, so networks are compared on common
random numbers, and the record does not depend on the number of ranks or on interruptions.
"""

import dataclasses
import functools
import math
import os
from types import SimpleNamespace

import torch
from torch import Tensor
from tqdm import tqdm

from ..flags import config, keys
from ..models import networks, rounding_log
from ..store import finite
from ..store.checkpoint import sha256
from ..store.model_paths import find_models, short_names
from ..weights import hessian
from ..world import dist_util, logger
from . import flatness, surface
from .finished import Finished
from .subject import Subject, load_images, packed, unpacked

SIGMAS = {"absolute": "5e-4,1e-3,2e-3,5e-3,1e-2", "filter": "0.01,0.02,0.05,0.1,0.2"}
ALPHAS = [round(-0.25 + 0.05 * i, 2) for i in range(31)]  # 0 is one checkpoint, 1 the other


def study(flags, folder: str) -> dict:
    """Do what --flatness says with every checkpoint; the record is of plain values.

    "settings"; "models": a dict each, of what `about` says and of the result (see `curve`,
    `spectrum`, `plane`); "line" for the surface of two (see `line`). A loss is a list of five: the
    means over all timesteps, and over each quarter of them. "..._images": a standard error over
    images and timesteps. The flags have passed `check`.
    """
    f = flags.flatness
    paths = find_models(f.model_path)
    measure, count = {
        "LPF": (curve, len(sizes(f)) * f.num_draws),
        "MC": (curve, len(sizes(f)) * f.num_draws),
        "HESSIAN": (spectrum, f.num_draws + 1),
        "SURFACE": (plane, f.surface_points**2),
    }[f.flatness]
    two_surfaces = f.flatness == "SURFACE" and len(paths) == 2
    total = len(paths) * count + two_surfaces * len(ALPHAS)
    flags = arithmetic(flags)
    images = functools.cache(functools.partial(load_images, flags))
    record = {"settings": settings(flags), "models": []}
    first = {}
    with Finished(os.path.join(folder, "flatness_parts"), total) as finished:
        for name, path in zip(short_names(paths), paths):
            logger.log(f"{f.flatness} of {path}")
            subject = Subject(name, path, flags, images)
            record["models"].append(about(subject) | measure(subject, flags, finished, first))
            warn_of_differences(record["models"])
        if two_surfaces:
            record["line"] = line(paths[0], subject, flags, finished)
    return record


# What is measured


def curve(subject: Subject, flags, finished: Finished, first: dict) -> dict:
    """A dict of "curve": of each sigma or radius, its "size", "distances" and "losses" by draw.

    "errors_images" by term: of the rise, image by image, its mean over the draws;
    "minus_first_errors_images": of its difference from that of the first network.

    :param first: of each size, the first network and its rises [terms, N]; filled by the first.
    """
    f = flags.flatness
    warn_of_rounding(subject, flags)
    draws = [(size, draw) for size in sizes(f) for draw in range(f.num_draws)]
    results = finished.compute(
        {
            f"{subject.key} {f.flatness} {f.noise_scale} {size} {draw}": functools.partial(
                _at_draw, subject, f, size, flags.run.seed, draw
            )
            for size, draw in draws
        }
    )
    rows = [results[i : i + f.num_draws] for i in range(0, len(draws), f.num_draws)]
    return {"curve": [_point(subject, size, row, first) for size, row in zip(sizes(f), rows)]}


def warn_of_rounding(subject: Subject, flags) -> None:
    """Say at which sizes the dtype makes other moves of those that are asked for."""
    f, name = flags.flatness, {"LPF": "sigma", "MC": "radius"}[flags.flatness.flatness]
    dtype = "fp16" if flags.model.use_fp16 else flags.run.dtype
    filterwise = f.noise_scale == "filter"
    moves = (
        (size, flatness.perturbation(f.flatness, size, flags.run.seed, 0, filterwise))
        for size in sizes(f)
    )
    rounding_log.warn_of_small_moves(subject, dtype, name, moves)


def _at_draw(subject, f, size, seed, draw):
    filterwise = f.noise_scale == "filter"
    return subject.at(flatness.perturbation(f.flatness, size, seed, draw, filterwise), each=True)


def _point(subject, size, row, first):
    """What `curve` says of one size."""
    rises = sum(unpacked(r["rises"]) for r in row) / len(row)
    errors = subject.errors_of(rises)
    other = first.setdefault(size, (subject, rises))
    return {
        "size": size,
        "distances": [r["distance"] for r in row],
        "losses": _terms(subject, row),
        "errors_images": dict(zip(subject.terms, errors.tolist())),
        "minus_first_errors_images": _of_difference(subject, rises, *other),
    }


def _of_difference(subject, rises, other, of_other):
    """By term, the error of one mean rise less another's: paired image by image, where these have
    the same timesteps in both."""
    paired = torch.equal(subject.plan.t, other.plan.t)
    found = {}
    for term in (t for t in subject.terms if t in other.terms):
        ours, theirs = rises[subject.terms.index(term)], of_other[other.terms.index(term)]
        if paired:
            error = subject.errors_of((ours - theirs)[None])[0]
        else:
            error = torch.hypot(subject.errors_of(ours[None]), other.errors_of(theirs[None]))[0]
        found[term] = error.tolist()
    return found


def spectrum(subject: Subject, flags, finished: Finished, _) -> dict:
    """A dict of "of" (a term), "trace" (z.Hz by draw), "eigenvalues" (down), and "residuals";
    "trace_error_images" and "eigenvalue_errors_images"."""
    f, size = flags.flatness, subject.num_weights
    samples = {
        f"{subject.key} trace {draw}": functools.partial(
            _curvature, subject, hessian.signs(size, flags.run.seed, draw)
        )
        for draw in range(f.num_draws)
    }
    lanczos = functools.partial(_lanczos, subject, f.num_eigenvalues, flags.run.seed)
    trace = finished.compute(samples, together=True)
    found = finished.compute({f"{subject.key} top {f.num_eigenvalues}": lanczos}, together=True)[0]
    finite.check(
        [part["value"] for part in trace] + found["eigenvalues"], f"Hessian of {subject.path}"
    )
    each = [unpacked(part) for part in found.pop("each")]
    mean = sum(unpacked(part["each"]) for part in trace) / len(trace)
    errors = subject.errors_of(torch.stack([mean, *each]))[:, 0].tolist()
    return {
        "of": subject.headline,
        "trace": [part["value"] for part in trace],
        "trace_error_images": errors[0],
        **found,
        "eigenvalue_errors_images": errors[1:],
    }


def _curvature(subject, vector):
    each = subject.curvatures(vector)
    return {"value": float(subject.means(each[None])[0, 0]), "each": packed(each)}


def _lanczos(subject, count, seed):
    product, size = subject.hessian_product(), subject.num_weights
    steps = min(size, 20 + 4 * count)
    with tqdm(
        total=steps + count, desc="Lanczos", leave=False, disable=dist_util.rank() > 0
    ) as bar:

        def counted(vector: Tensor) -> Tensor:
            bar.update()
            return product(vector)

        values, residuals, vectors = hessian.top_eigenvalues(counted, size, count, seed, steps)
    return {
        "eigenvalues": values.tolist(),
        "residuals": residuals.tolist(),
        "each": [packed(subject.curvatures(v)) for v in vectors],
    }


def plane(subject: Subject, flags, finished: Finished, _) -> dict:
    """A dict of "axis" [P], steps along either direction, and "plane" [P][P], losses by term."""
    f = flags.flatness
    axis = [f.surface_range * (2 * i / (f.surface_points - 1) - 1) for i in range(f.surface_points)]
    directions = surface.directions(subject.weights, flags.run.seed)
    results = finished.compute(
        {
            f"{subject.key} plane {a} {b}": functools.partial(
                subject.at, surface.plane(directions, a, b)
            )
            for a in axis
            for b in axis
        }
    )
    rows = [results[i : i + len(axis)] for i in range(0, len(results), len(axis))]
    by_row = [_terms(subject, row) for row in rows]
    return {"axis": axis, "plane": {t: [row[t] for row in by_row] for t in subject.terms}}


def line(start: str, end: Subject, flags, finished: Finished) -> dict | None:
    """A dict of "alphas", 0 at the checkpoint `start` and 1 at `end`, and "losses" by term."""
    network, _ = networks.from_checkpoint(start, flags)
    weights = list(network.parameters())
    if [w.shape for w in weights] != [w.shape for w in end.weights]:
        logger.warn("warning: the two networks differ in shape, so there is no line between them")
        return None
    results = finished.compute(
        {
            f"{end.key} {sha256(start)} line {alpha}": functools.partial(
                end.at, surface.between(weights, 1 - alpha)
            )
            for alpha in ALPHAS
        }
    )
    return {"alphas": ALPHAS, "losses": _terms(end, results)}


def _terms(subject, results):
    """[{"losses": [terms][5]}, ...] -> {term: [..., [5]]}."""
    return {t: [r["losses"][i] for r in results] for i, t in enumerate(subject.terms)}


def about(subject: Subject) -> dict:
    """Where it came from, and its losses at w, with their standard errors over images."""
    tables = zip(subject.terms, subject.at_w.tolist(), subject.errors.tolist())
    return {
        "name": subject.name,
        "path": subject.path,
        "sha256": subject.sha256,
        "num_weights": subject.num_weights,
        "image_size": subject.model.image_size,
        "timesteps": subject.diffusion.num_timesteps,
        "t_range": subject.t_range,
        "batch_size": subject.batch_size,
        "at_w": {term: {"losses": means, "errors": errors} for term, means, errors in tables},
    }


def warn_of_differences(models: list[dict]) -> None:
    """Say what makes the last of the models hard to compare with the first."""
    first, last = models[0], models[-1]
    for key, why in (
        ("num_weights", "distances and sigmas mean different things"),
        ("image_size", "their losses are of different images"),
        ("t_range", "their losses are of different noise levels"),
    ):
        if first[key] != last[key]:
            logger.warn(
                f"warning: {key} is {first[key]} for {first['name']} and {last[key]} for "
                f"{last['name']}: {why}"
            )


# What was asked for


def check(flags) -> None:
    """ValueError for flags that make no sense, and for checkpoints that are not there."""
    f = flags.flatness
    find_models(f.model_path)
    if not flags.data.data_dir:
        raise ValueError("no data: give --data_dir, the images on which the losses are measured")
    if f.flatness in flatness.KINDS:
        flatness.pairs(torch.empty(f.num_draws))
        sizes(f)
    if f.surface_points % 2 == 0 or not f.surface_range > 0:
        raise ValueError(
            f"surface_points is {f.surface_points}, surface_range {f.surface_range}; expected an "
            "odd number, so that the weights themselves are one of the points, and a positive one"
        )


def sizes(f: config.FlatnessFlags) -> list[float]:
    """The sigmas of LPF or the radii of MC, the smallest first."""
    name, text = "sigma", f.sigma or SIGMAS[f.noise_scale]
    if f.flatness == "MC":
        name, text = "radius", f.radius
    try:
        values = sorted({float(v) for v in text.split(",") if v.strip()})
    except ValueError:
        values = []
    if not values or not 0 < values[0] <= values[-1] < math.inf:
        raise ValueError(
            f"--{name} is {text!r}; expected positive numbers separated by commas, as 0.001,0.01"
        )
    return values


def arithmetic(flags):
    """Flags, and torch, set for exact work: the rises are small differences of losses."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    if flags.flatness.flatness != "HESSIAN":
        return flags
    run = dataclasses.replace(flags.run, dtype="fp32", compile=False)
    model = dataclasses.replace(flags.model, use_fp16=False)
    if (run, model) != (flags.run, flags.model):
        logger.warn("warning: HESSIAN is computed in fp32 and not compiled, whatever flags say")
    return SimpleNamespace(**vars(flags) | {"run": run, "model": model})


def settings(flags) -> dict:
    """Every flag that a number may depend on, and torch's version."""
    told = {"torch": torch.__version__, "device": dist_util.dev().type}
    return keys.values(flags, "result") | told | {"data_dir": flags.data.data_dir}
