"""Exposure bias: along the sampling chain the network sees other inputs than in training.

Two readings of it, at each timestep t (Ning et al. 2024):

    ||eps(x_t, t)||_2 on really noised images, against that along the chain; their gap
    delta_t = (std(x_t - alpha_t x_start) - sigma_t)^2 on chains begun at images

x_t = alpha_t x_start + sigma_t noise, in a chain of betas sqrt(abar_t) and sqrt(1 - abar_t). eps is
here the noise that the network's own output stands for; a sampler with epsilon scaling uses
eps / eps_scale. Knows no files, flags or ranks.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..chain.samplers import begun, walk
from ..models.generate import step_of

Prior = tuple[float, float]  # (mu, s) of N(mu, s^2)
Join = Callable[[list[Tensor]], Tensor]
NORMAL = (0.0, 1.0)  # the prior that a chain should begin at
STATISTICS = ("mean", "square", "clipped")


@dataclass(frozen=True)
class Batch:
    """Holds some of the images, and what is random about their chains.

    stream(): a new function x -> noise like x, the same sequence of noises for each call of
    `stream`; its first noise is that of x_T, and that of the noised images.
    """

    x_start: Tensor  # [N, C, ...]
    stream: Callable[[], Callable[[Tensor], Tensor]]
    t: Tensor  # [N] int64, where an image's loss is taken
    model_kwargs: dict[str, Tensor]  # each [N, ...], as y


class Step(NamedTuple):
    """One call of the network, [N, C, ...]: the x_t it saw, the eps it predicted, and a chain's
    x_{t-1}, the image at t = 0."""

    x_t: Tensor
    eps: Tensor
    x_next: Tensor | None = None


class Estimate(NamedTuple):
    """Holds a value and its standard error, float64 of one shape."""

    value: np.ndarray
    error: np.ndarray


def noised(model: Callable, diffusion, batch: Batch) -> Iterator[Step]:
    """Ask the network as in training: x_t is the noised x_start, t = T-1 .. 0.

    An image has one noise at every t, and begins its chain there: so near T-1, where both inputs
    hardly differ, the gap has hardly any error.
    """
    noise = batch.stream()(batch.x_start)
    for i in reversed(range(diffusion.num_timesteps)):
        t = _times(i, batch.x_start)
        x_t = diffusion.q_sample(batch.x_start, t, noise)
        yield Step(x_t, predicted_noise(model, diffusion, x_t, t, batch.model_kwargs))


def walked(
    model: Callable,
    diffusion,
    batch: Batch,
    sampler: str = "ddpm",
    clip_denoised: bool = True,
    prior: Prior | None = NORMAL,
) -> Iterator[Step]:
    """Ask it as in sampling, t = T-1 .. 0, in a chain that begins at N(mu, s^2), prior = (mu, s),
    times the deviation at which it should begin; None: at the noised x_start, with the same noises.
    """
    randn, steps, outputs = batch.stream(), range(diffusion.num_timesteps)[::-1], []
    x = randn(batch.x_start)
    if prior is None:
        x = diffusion.q_sample(batch.x_start, _times(steps[0], x), x)
    else:
        x = begun(diffusion, prior[0] + prior[1] * x)

    def watched(*args, **kwargs):
        outputs.append(model(*args, **kwargs))
        return outputs[-1]

    step, knobs = step_of(sampler)
    given = {"noise": x, "clip_denoised": clip_denoised, "model_kwargs": batch.model_kwargs}
    loop = walk(diffusion, step, watched, x.shape, **given, randn=randn, **knobs)
    for i, out in zip(steps, loop):
        first = outputs[0]  # at x: a step may ask again elsewhere
        outputs.clear()
        eps = predicted_noise(lambda *_: first, diffusion, x, _times(i, x))  # noqa: B023
        yield Step(x, eps, out["sample"])
        x = out["sample"]


def predicted_noise(
    model: Callable, diffusion, x_t: Tensor, t: Tensor, model_kwargs: dict | None = None
) -> Tensor:
    """Return the noise [N, C, ...] that the output stands for, whatever it predicts, unscaled; read
    off the x_0 that it implies, so with a rounding of about 1e-5."""
    with torch.no_grad():
        p = diffusion.p_mean_variance(model, x_t, t, clip_denoised=False, model_kwargs=model_kwargs)
        return diffusion._predict_eps_from_xstart(x_t, t, p["pred_xstart"])


def _times(i: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), i, device=x.device)


def norms(steps: Iterable[Step]) -> tuple[Tensor, Tensor | None]:
    """Return ||eps||_2 of each image at t = 0 .. T-1, float64 [N, T], CPU; and the last x_next."""
    columns = []
    for step in steps:
        norm = torch.linalg.vector_norm(step.eps.flatten(1), dim=1, dtype=torch.float64)
        columns.append(norm)
    return torch.stack(columns[::-1], dim=1).cpu(), step.x_next


def spread(drift: Tensor) -> tuple[float, np.ndarray]:
    """Return the standard deviation of drift [N, C, ...] over N, averaged over pixels; and the same
    with each image left out, [N], for the jackknife."""
    flat = drift.flatten(1).numpy().astype(np.float64)
    n = len(flat)
    flat -= flat.mean(axis=0)
    squares = (flat**2).sum(axis=0)
    # Without image i the mean is -flat_i / (n - 1), and the sum of squares is less as follows.
    rest = np.maximum(squares - flat**2 * (n / (n - 1)), 0)
    return np.sqrt(squares / (n - 1)).mean(), np.sqrt(rest / (n - 2)).mean(axis=1)


def forgetful_delta(x_start: Tensor, diffusion, labels: Tensor | None = None) -> np.ndarray:
    """Return [T]: delta_t of a perfect sampler, as it reaches another image (of the same class).

    For x_T says next to nothing of x_start, so that even a perfect chain ends at some other image,
    and data of variance v (per pixel) add 2 alpha_t^2 v to the variance of x_t - alpha_t x_start.
    That is most of the 0.47 published for CIFAR-10 at t = 0, and 0 for data of one point.
    """
    flat = x_start.double().cpu().flatten(1)
    labels = torch.zeros(len(flat), dtype=torch.int64) if labels is None else labels.cpu()
    groups = [flat[labels == y] for y in labels.unique()]
    squares = sum(((g - g.mean(dim=0)) ** 2).sum(dim=0) for g in groups).numpy()
    v = squares / (len(flat) - len(groups)) if len(flat) > len(groups) else squares * math.nan
    signal, noise = (power[:, None] for power in diffusion.powers)
    return (np.sqrt(noise + 2 * signal * v).mean(axis=1) - np.sqrt(noise[:, 0])) ** 2


def image_statistics(x: Tensor) -> dict[str, Tensor]:
    """Return, of each image [N, C, ...], float64, CPU: mean and mean square [N, C], and the share
    clipped [N] of values that lie at -1 or 1 or beyond."""
    flat = x.double().flatten(2).cpu()
    clipped = (flat.abs() >= 1).double().mean(dim=(1, 2))
    return {"mean": flat.mean(dim=2), "square": (flat**2).mean(dim=2), "clipped": clipped}


def noise_losses(model: Callable, diffusion, batch: Batch, prior: Prior) -> Tensor:
    """Return mean (eps - noise)^2 of each image at its t, noise ~ N(mu, s^2): float64 [N], CPU."""
    noise = prior[0] + prior[1] * batch.stream()(batch.x_start)
    x_t = diffusion.q_sample(batch.x_start, batch.t, noise)
    eps = predicted_noise(model, diffusion, x_t, batch.t, batch.model_kwargs)
    return ((eps - noise) ** 2).double().flatten(1).mean(dim=1).cpu()


@dataclass(frozen=True)
class Measured:
    """Holds what one network does, as float64 arrays over images and the timesteps t = 0 .. T-1.

    begun: by prior (mu, s), the chains begun there: norms [N, T], loss [N] under this prior, and
    `image_statistics` of their images.
    """

    training: np.ndarray  # norms on noised images [N, T]
    std: np.ndarray  # `spread` of chains begun at images [T]
    std_parts: np.ndarray  # the same with each image left out [N, T]
    begun: dict[Prior, dict[str, np.ndarray]]


def parts(
    model: Callable, diffusion, batches: list[Batch], priors: list[Prior], gather: Join, **sampling
) -> dict[str, Callable[[], dict[str, np.ndarray]]]:
    """Return what there is to measure of a network in eval mode: functions that give arrays.

    gather: a CPU tensor for each batch -> the rows of all images; where ranks share the batches,
    all of them call it, and it knows the order. sampling: sampler, clip_denoised.
    """

    def training():
        return {"norms": gather([norms(noised(model, diffusion, b))[0] for b in batches]).numpy()}

    def spreads():
        # side by side, so that all images are seen at one t; each signal is alpha_t
        chains = [walked(model, diffusion, b, prior=None, **sampling) for b in batches]
        found = []
        for signal in diffusion.alphas[::-1]:
            drift = [(next(c).x_t - signal * b.x_start).cpu() for c, b in zip(chains, batches)]
            found.append(spread(gather(drift)))
        std, std_parts = (np.stack(values[::-1], axis=-1) for values in zip(*found))
        return {"std": std, "std_parts": std_parts}

    def begun(prior):
        walks = [norms(walked(model, diffusion, b, prior=prior, **sampling)) for b in batches]
        statistics = [image_statistics(image) for _, image in walks]
        columns = {
            "norms": [curve for curve, _ in walks],
            "loss": [noise_losses(model, diffusion, b, prior) for b in batches],
            **{name: [s[name] for s in statistics] for name in STATISTICS},
        }
        return {name: gather(of_batches).numpy() for name, of_batches in columns.items()}

    of_priors = {f"prior {mu} {s}": partial(begun, (mu, s)) for mu, s in priors}
    return {"training": training, "spread": spreads} | of_priors


def measured(found: list[dict], priors: list[Prior]) -> Measured:
    """Put together what the functions of `parts` gave, in their order."""
    training, spreads, *begun = found
    return Measured(training["norms"], **spreads, begun=dict(zip(priors, begun)))


def mean(values: np.ndarray) -> Estimate:
    """Estimate the mean over the first axis, the independent images: [N, ...] -> [...]."""
    values = np.asarray(values)
    return Estimate(values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(len(values)))


def left_out(statistic: Callable, whole, parts: np.ndarray) -> Estimate:
    """Return the jackknife's value and error of statistic(whole); parts [N, ...] lack one image.

    The value is less its bias, (N - 1) times the mean of what leaving one image out adds
    (Quenouille 1956), but for order N^-2. The error is of first order, and vanishes where the
    statistic has an extremum, as a square at 0. There x^2 - s^2, for x ~ N(0, s^2), has the error
    sqrt(2) s^2: sqrt(2) the bias.
    """
    values, found = statistic(parts), statistic(whole)
    n, mean = len(values), values.mean(axis=0)
    bias = (n - 1) * (mean - found)
    error = np.sqrt((n - 1) / n * ((values - mean) ** 2).sum(axis=0))
    return Estimate(found - bias, np.maximum(error, math.sqrt(2) * np.abs(bias)))


def delta(measured: Measured, diffusion) -> Estimate:
    """Estimate delta_t, [T] (Ning et al. 2024), of the network's input x_t, by the sigma of that t.

    The published one lacks the jackknife, which takes off the error's square: one near 0 may come
    out below. It is 0 at T-1, where chains begin at noised images, and for an exact network on one
    image; else see `forgetful_delta`.
    """
    sigma = diffusion.sigmas
    return left_out(lambda std: (std - sigma) ** 2, measured.std, measured.std_parts)


def channel_std(means: np.ndarray, squares: np.ndarray) -> Estimate:
    """Estimate the deviation of a channel over images and pixels, by `image_statistics` [N, C]."""
    both, n = np.stack([means, squares], axis=-1), len(means)
    parts = (both.sum(axis=0) - both) / (n - 1)
    return left_out(
        lambda m: np.sqrt(np.maximum(m[..., 1] - m[..., 0] ** 2, 0)), both.mean(axis=0), parts
    )
