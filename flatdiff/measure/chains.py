"""A network and its chain as a `Subject`: images noised at levels that count alike, in training's
own terms, and as squared errors of the image by log-SNR.

Terms as trained are averaged over timesteps, all and by quarter. What a network predicts, and how
images are noised, changes them; the error of the image that it implies, at a log-SNR, it does not:
x_mse is averaged evenly over log-SNR from -8 to 8, where all families are at home.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..chain import probe
from ..store.checkpoint import sha256
from . import checks
from .subject import Axis, Subject

EDGES = [probe.SHARED * part for part in (1.0, 0.5, 0.0, -0.5, -1.0)]  # least noise first


def of_chain(
    name: str,
    path: str,
    model,
    diffusion,
    images: tuple[Tensor, dict[str, Tensor], int],
    *,
    seed: int = 0,
    t_range: int = 0,
    loss: Callable | None = None,
    key: Callable[..., str] = lambda *_, **__: "",
    **how,
) -> Subject:
    """Put the network of a checkpoint on images, each noised once, at a timestep of its own.

    images: (x_start [N, 3, H, W], labels by name or {}, how many images differ). t_range: timesteps
    0 .. t_range-1 of the chain; 0: all. loss: (network, Draw) -> [N] or terms; None: training's,
    with x_mse.
    key: (path, tensors, losses=...) -> a text of all that the losses depend on. how: batch_size,
    dtype, call, as in Subject.
    """
    x_start, cond, distinct = images
    steps = diffusion.num_timesteps
    t_range = _t_range(t_range, steps, path)
    plan = even = probe.plan(len(x_start), steps, t_range, seed, distinct)
    if diffusion.density is not None:
        plan = weighed(plan, plan.weight * torch.from_numpy(diffusion.density)[plan.t])
    device = next(model.parameters()).device
    draws = probe.fixed_draws(x_start.to(device), plan, seed, cond)
    if loss:
        part = draws.slice(0, 8)
        checks.loss(lambda: loss(model, part), part.t)
    more = {"path": path, "sha256": sha256(path) if path else "", "image_size": x_start.shape[-1]}
    made_of = [x_start, *cond.values(), plan.t, plan.weight]
    made = Subject(
        name,
        model,
        loss or (lambda network, part: part.losses(diffusion, network)),
        draws,
        size=len(x_start),
        axes={"": timesteps(plan, t_range)} | axis_of_x(even, diffusion.log_snr[:t_range]),
        x_factor=None if loss else torch.from_numpy(diffusion.x_factor)[plan.t],
        seed=seed,
        more=more | {"timesteps": steps, "t_range": t_range},
        key=lambda losses: key(path, made_of, losses=[*losses[:-1], t_range, losses[-1]]),
        **how,
    )
    made.log_snr = torch.from_numpy(diffusion.log_snr)[plan.t]
    made.drawn = fingerprint([x_start, seed])
    return made


def fingerprint(drawn: Any) -> str:
    """Hash nested tensors and values: what a subject's losses were drawn from."""
    digest = hashlib.sha256()
    for leaf in tree_leaves(drawn):
        plain = leaf.detach().cpu().numpy().tobytes() if torch.is_tensor(leaf) else repr(leaf)
        digest.update(plain if isinstance(plain, bytes) else plain.encode())
    return digest.hexdigest()


def _t_range(t_range: int, count: int, path: str) -> int:
    if t_range > count:
        raise ValueError(
            f"--t_range {t_range}: the chain of {path} has {count} timesteps; "
            f"expected 1 to {count}, or 0 for all"
        )
    return t_range or count


def weighed(plan: probe.Plan, weight: Tensor) -> probe.Plan:
    """Return the plan with other weights [N], made to be 1 in the mean."""
    return replace(plan, weight=weight * (len(weight) / weight.sum()))


def timesteps(plan: probe.Plan, t_range: int) -> Axis:
    """Return the axis of all timesteps below t_range, and of each quarter of them."""
    edges = [-(-t_range * q // 4) for q in range(5)]
    ranges = [(0, t_range), *pairwise(edges)]
    told = [f"{low}..{high - 1}" if low < high else "" for low, high in ranges]
    labels = "all", *(f"quarter {q}" for q in range(1, 5))
    return Axis(plan, dict(zip(labels, zip(told, probe.quarters(plan.t, t_range)))))


def axis_of_x(plan: probe.Plan, log_snr: np.ndarray) -> dict[str, Axis]:
    """Return the axis of x_mse: log-SNR from -8 to 8, evenly, and its four parts.

    log_snr: that of each timestep in range, falling. One counts for the log-SNR nearest to it; one
    alone is all that there is.
    """
    middles = (log_snr[1:] + log_snr[:-1]) / 2
    top, bottom = np.append(log_snr[0], middles), np.append(middles, log_snr[-1])
    width = np.clip(top, EDGES[-1], EDGES[0]) - np.clip(bottom, EDGES[-1], EDGES[0])
    width = width if len(width) > 1 else np.ones(1)
    weight = plan.weight * torch.from_numpy(width)[plan.t]
    reach = float(log_snr[-1]), float(log_snr[0])
    return axis_of_levels(replace(plan, weight=weight), torch.from_numpy(log_snr)[plan.t], reach)


def axis_of_levels(
    plan: probe.Plan, log_snr: Tensor, reach: tuple[float, float]
) -> dict[str, Axis]:
    """Return the axis of x_mse for examples at these log-SNR [N], by the plan's weights.

    reach: from where to where noise levels go; a part that is beyond is told as far as it goes.
    """
    ranges = [(EDGES[-1], EDGES[0]), *zip(EDGES[1:], EDGES)]
    inside = [(log_snr >= low) & (log_snr < high) for low, high in ranges]
    names = ["all", *(_told(*ends) for ends in ranges[1:])]
    told = [_told(max(low, reach[0]), min(high, reach[1])) for low, high in ranges]
    parts = dict(zip(names, zip(told, inside)))
    return {"x_mse": Axis(replace(plan, weight=plan.weight * inside[0]), parts)}


def _told(low: float, high: float) -> str:
    if low == high:
        return f"log-SNR {low:.3g}"
    return f"log-SNR {low:.3g}..{high:.3g}" if low < high else ""
