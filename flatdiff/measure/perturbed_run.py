"""The runner of perturbed samples: flags and checkpoints in, a record and its files out.

All networks have the same indices and noise, and their losses the same images, timesteps and noise;
ranks share the samples of each move, and no number depends on how many there are.
"""

import functools
import os
from collections.abc import Iterator

from torch import Tensor

from ..models import generate, guidance, networks
from ..rng import PERTURB, seed_of
from ..store import checkpoint
from ..store.model_paths import find_models, short_names
from ..world import logger
from ..world.arithmetic import arithmetic
from . import evaluation, frame, sources
from .chains import of_chain
from .finished import Finished
from .found import made, measured
from .kept import refuse_to_replace
from .moves import Start, leads_there
from .perturbed_samples import Sampled
from .run import settings, warn_of_differences

FILE = "perturbed_samples"


def check(flags) -> None:
    """Raise ValueError for flags that make no sense, and for checkpoints that are not there."""
    paths, f = find_models(flags.sample.model_path), flags.sample
    if not flags.data.data_dir:
        raise ValueError(
            "no data: give --data_dir, the images that samples are compared with, and on which the "
            "losses are measured"
        )
    made("perturbed", f)
    generate.step_of(generate.sampler_of(flags))
    for path in paths:
        networks.chain_of(path, flags, f.timestep_respacing)
    evaluation.network(f.features, f.inception_weights, f.dinov2_weights)


@arithmetic(tf32=False)
def perturbed(flags, folder: str) -> dict:
    """Measure every checkpoint, by flags that have passed `check`: a record of "settings",
    "models", "rows", and "correlation", that over the moves of all of them."""
    measure, paths = made("perturbed", flags.sample), find_models(flags.sample.model_path)
    names, record = short_names(paths), {"settings": settings(flags), "models": []}
    refuse_to_replace(os.path.join(folder, f"{FILE}.json"), record["settings"], paths)
    loaded = {n: networks.from_checkpoint(p, flags)[0] for n, p in zip(names, paths)}
    _check_sizes(loaded)
    to = flags.sample.average_path if leads_there(measure.moves) else ""
    others = [sources.average(to, path, m, flags) for path, m in zip(paths, loaded.values())]
    size = next(iter(loaded.values())).image_size
    features, reference, _ = evaluation.judge(flags.sample, flags.data, size, flags.run.seed)
    with Finished(os.path.join(folder, f"{FILE}_parts")) as finished:
        for path, (name, model), other in zip(paths, loaded.items(), others):
            logger.log(f"samples of {path}")
            subject = _sampled(name, path, model, flags, other, features, reference)
            record["models"].append(measured(measure, subject, finished, len(paths))[0])
            warn_of_differences(record["models"])
    record["correlation"] = measure.overall(flags.run.seed)
    return record | {"rows": measure.rows(record)}


def write(flags, record: dict, folder: str) -> list[str]:
    """Log the table, write perturbed_samples.json, .csv and .png; returns their paths."""
    measure, path = made("perturbed", flags.sample), os.path.join(folder, f"{FILE}.json")
    logger.log(measure.text(record))
    checkpoint.save_json(frame.without_nan(record), path)
    return [path, *frame.write(measure, record, FILE, folder, flags.sample.format)]


def _check_sizes(loaded: dict) -> None:
    (first, model), *others = loaded.items()
    for name, other in others:
        if other.image_size != model.image_size:
            raise ValueError(
                f"{name} has image_size {other.image_size} and {first} {model.image_size}, so "
                "their distances do not compare: study them in runs of their own"
            )


def _sampled(name, path, model, flags, others, features, reference) -> Sampled:
    """Put the network on the images of the loss, and on the chains of the samples."""
    f, seed = flags.sample, flags.run.seed
    known = model.image_size, model.num_classes, model.classes
    images = sources.load_halves(flags, f.num_images, known, "for the directions of climbs")
    given = name, path, model, networks.chain_of(path, flags)
    how = {"batch_size": min(64, images[0][-1]), "dtype": networks.dtype_of(flags)}
    key = functools.partial(sources.key_of, flags)
    subject = of_chain(*given, images[0], seed=seed, key=key, **how)
    guide = of_chain(*given, images[1], seed=seed_of(seed, PERTURB), **how)
    losses = [subject.key, features.fingerprint]
    made_of = sources.key_of(flags, path, list(reference), losses=losses)
    walk = _walk(model, networks.chain_of(path, flags, f.timestep_respacing), flags)
    amount = f.num_samples, f.batch_size
    return Sampled(Start(subject, others, guide), walk, *amount, features, reference, made_of)


def _walk(model, diffusion, flags):
    """A function of image indices: x_{t-1} at t = T-1 .. 0."""
    labels = generate.labels_of(flags, model.num_classes, model.classes)
    shape = 3, model.image_size, model.image_size
    how = {"seed": flags.run.seed, "clip_denoised": flags.sample.clip_denoised}
    how["sampler"] = generate.sampler_of(flags)
    network = guidance.guided(model, flags.sample.guidance_scale)

    def walk(indices: list[int]) -> Iterator[Tensor]:
        y = labels(indices) if model.num_classes is not None else None
        outs = generate.walks(network, diffusion, indices, shape, labels=y, **how)
        return (out["sample"] for out in outs)

    return walk
