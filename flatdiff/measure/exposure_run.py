"""A study of exposure bias: checkpoints and flags in, a record of plain values out.

All networks see the same images and noises, so a difference between two of them is paired by image,
and better known than either. Ranks take batches in turn, and what they measured is put in the order
of the images before it is summed, so the record does not depend on how many ranks there are.
"""

import itertools
import math

import numpy as np
import torch
from tqdm import tqdm

from ..chain import probe
from ..flags import keys
from ..models import run_util
from ..models.generate import ImageNoise
from ..models.networks import autocast, from_checkpoint
from ..store import finite
from ..store.checkpoint import sha256
from ..store.model_paths import find_models, short_names
from ..world import dist_util, logger
from . import exposure_bias
from .exposure_bias import NORMAL, Batch, Estimate, Measured, mean


def study(flags) -> dict:
    """A record: settings, timesteps, eps_scale, noise_norm, perfect_delta, real_images, models.

    A model has name, path, sha256, its `numbers`, and, from the second on, "less": the name of the
    first, and the `difference` from it. An estimate is {"value", "error"}: numbers, or lists over
    timesteps (least noise first) or channels. ValueError, before any chain is begun, for flags,
    files and networks that do not go together.
    """
    f = flags.exposure
    torch.backends.cudnn.deterministic = True
    priors = priors_of(f.prior_shift)
    paths = find_models(f.model_path)
    names = short_names(paths)
    networks = {n: from_checkpoint(p, flags) for n, p in zip(names, paths)}
    _check_one_chain(networks)
    x_start, labels = _images(flags, [model for model, _ in networks.values()])
    measured = _measure(networks, x_start, labels, priors, flags)

    for name, path in zip(names, paths):
        finite.check(vars(measured[name]), f"exposure bias of {path}")
    _, diffusion = networks[names[0]]
    real = {name: v.numpy() for name, v in exposure_bias.image_statistics(x_start).items()}
    models = [
        {"name": name, "path": path, "sha256": sha256(path)} | numbers(measured[name], diffusion)
        for name, path in zip(names, paths)
    ]
    for model in models[1:]:
        both = measured[model["name"]], measured[names[0]]
        model["less"] = {"name": names[0]} | difference(*both, diffusion)
    return {
        "settings": _settings(flags),
        "num_images": len(x_start),
        "timesteps": diffusion.timestep_map,
        "eps_scale": diffusion.eps_scale.tolist(),
        "noise_norm": math.sqrt(x_start[0].numel()),
        "perfect_delta": plain(exposure_bias.forgetful_delta(x_start, diffusion, labels.get("y"))),
        "real_images": plain(statistics(real)),
        "models": models,
    }


# What was asked for


def priors_of(text: str) -> list[tuple[float, float]]:
    """Text such as 0.1:1,0:1.2 -> pairs (mu, s), after (0, 1), the prior as it should be."""
    try:
        pairs = [(float(mu), float(s)) for mu, s in (p.split(":") for p in text.split(",") if p)]
    except ValueError:
        pairs = [(math.nan, math.nan)]
    if not all(math.isfinite(mu) and 0 < s < math.inf for mu, s in pairs):
        raise ValueError(
            f"--prior_shift is {text!r}; expected pairs mean:standard deviation separated by "
            "commas, each standard deviation above 0, as 0.1:1,0:1.1"
        )
    return list(dict.fromkeys([NORMAL, *pairs]))


def _check_one_chain(networks: dict) -> None:
    """All networks make images of one size, and their chains have the same noise at each step."""
    (first, (model, chain)), *others = networks.items()
    for name, (other_model, other) in others:
        mine = model.image_size, chain.timestep_map, chain.alphas_cumprod.tolist()
        if mine != (other_model.image_size, other.timestep_map, other.alphas_cumprod.tolist()):
            raise ValueError(
                f"{name} has another image_size or noise schedule than {first}, so their curves "
                "do not compare: study them in runs of their own"
            )


def _images(flags, models) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The images [N, 3, H, W] of the study, and their labels if a network has classes."""
    wanted = flags.exposure.num_images
    size, conditional = models[0].image_size, [m for m in models if m.num_classes is not None]
    kinds = dict.fromkeys((m.num_classes, m.classes) for m in conditional) or [(None, ())]
    dataset, *others = (run_util.open_dataset(flags.data, size, *kind) for kind in kinds)
    if any(not np.array_equal(dataset.labels, other.labels) for other in others):
        raise ValueError(
            "the networks have other labels for the same classes (config.json beside each): study "
            "them in runs of their own"
        )
    if dataset.num_images < wanted:
        logger.warn(
            f"warning: there are {dataset.num_images} images, and num_images is {wanted}: each is "
            "used once"
        )
    return probe.images_of(dataset, min(wanted, dataset.num_images), flags.run.seed)


def _settings(flags) -> dict:
    """Every flag that a number depends on, and torch's version."""
    told = {"torch": torch.__version__, "device": dist_util.dev().type}
    return keys.values(flags, "result") | told | {"data_dir": flags.data.data_dir}


# Measuring


def _measure(networks, x_start, labels, priors, flags) -> dict[str, Measured]:
    """Each network on the same batches; this rank's are every world_size-th of all."""
    f = flags.exposure
    casting = autocast(flags, dist_util.dev())
    rows = torch.arange(len(x_start)).split(f.batch_size)[
        dist_util.rank() :: dist_util.world_size()
    ]
    measured = {}
    with tqdm(unit="image", unit_scale=True, disable=dist_util.rank() > 0) as bar:
        steps = [d.num_timesteps * (2 + len(priors)) + len(priors) for _, d in networks.values()]
        bar.total = sum(map(len, rows)) * sum(steps)
        for name, (model, diffusion) in networks.items():
            bar.set_description(name)
            cond = labels if model.num_classes is not None else {}
            t = probe.timesteps(len(x_start), diffusion.num_timesteps, flags.run.seed)
            with casting():
                measured[name] = exposure_bias.measure(
                    _counted(model, bar),
                    diffusion,
                    [_batch(part, x_start, t, cond, flags.run.seed) for part in rows],
                    priors,
                    _gather,
                    sampler=f.sampler,
                    clip_denoised=f.clip_denoised,
                )
    return measured


def _batch(rows, x_start, t, cond, seed) -> Batch:
    device = dist_util.dev()
    indices = rows.tolist()
    return Batch(
        x_start[rows].to(device),
        lambda: ImageNoise(seed, indices, device),
        t[rows].to(device),
        {name: values[rows].to(device) for name, values in cond.items()},
    )


def _counted(model, bar):
    """The network as a function that moves the bar."""

    def call(x, t, **kwargs):
        bar.update(len(x))
        return model(x, t, **kwargs)

    return call


def _gather(parts: list[torch.Tensor]) -> torch.Tensor:
    """The rows of all batches in order; each rank has every world_size-th batch."""
    rounds = itertools.zip_longest(*dist_util.all_gather_object(parts))
    return torch.cat([part for together in rounds for part in together if part is not None])


# Numbers


def numbers(m: Measured, diffusion) -> dict:
    """The curves over t, and "priors": for each (mu, s) the loss, the late norms, the images.

    training: the norm of the network's output on noised images; output: along the chain; sampling:
    of the noise that the sampler takes, output / eps_scale, the same with the scaling off. gap and
    output_gap: sampling and output, less training. The scaling is to close the first (Ning et al.
    2024); the second says how the network finds its inputs changed.
    loss_rise: over that at (0, 1). late_norm: of the output, over the last tenth of the chain's
    steps. mean and std of the images are by channel.
    """
    output = m.begun[NORMAL]["norms"]
    sampling = output / diffusion.eps_scale
    estimates = {
        "training": mean(m.training),
        "sampling": mean(sampling),
        "gap": mean(sampling - m.training),
        "output": mean(output),
        "output_gap": mean(output - m.training),
        "delta": exposure_bias.delta(m, diffusion),
    }
    priors = []
    for (mu, s), begun in m.begun.items():
        late = begun["norms"][:, : max(1, diffusion.num_timesteps // 10)].mean(axis=1)
        told = {
            "loss": mean(begun["loss"]),
            "loss_rise": mean(begun["loss"] - m.begun[NORMAL]["loss"]),
            "late_norm": mean(late),
        }
        priors.append({"mu": mu, "s": s} | plain(told | statistics(begun)))
    return plain(estimates) | {"priors": priors}


def difference(m: Measured, base: Measured, diffusion) -> dict:
    """m less base, paired by image: the gap and delta, and by prior the loss and its rise."""
    sigma = diffusion.sqrt_one_minus_alphas_cumprod
    scale = diffusion.eps_scale
    gap, base_gap = (x.begun[NORMAL]["norms"] / scale - x.training for x in (m, base))
    delta = exposure_bias.left_out(
        lambda std: (std[0] - sigma) ** 2 - (std[1] - sigma) ** 2,
        np.stack([m.std, base.std]),
        np.stack([m.std_parts, base.std_parts]),
    )
    losses = {prior: m.begun[prior]["loss"] - base.begun[prior]["loss"] for prior in m.begun}
    priors = [
        {"mu": mu, "s": s} | plain({"loss": mean(loss), "loss_rise": mean(loss - losses[NORMAL])})
        for (mu, s), loss in losses.items()
    ]
    return plain({"gap": mean(gap - base_gap), "delta": delta}) | {"priors": priors}


def statistics(columns: dict[str, np.ndarray]) -> dict[str, Estimate]:
    """Of images, from the columns of `exposure_bias.image_statistics`."""
    return {
        "mean": mean(columns["mean"]),
        "std": exposure_bias.channel_std(columns["mean"], columns["square"]),
        "clipped": mean(columns["clipped"]),
    }


def plain(value):
    """Estimates and arrays as dicts, lists and numbers; None for what is not finite."""
    if isinstance(value, Estimate):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    if np.ndim(value):
        return [plain(v) for v in value]
    return float(value) if math.isfinite(value) else None
