"""Exposure bias of checkpoints: the network along the sampling chain, against real images.

All networks see the same images and noises, so a difference between two of them is paired by image,
and better known than either. Errors are standard errors over images.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..bars import Bar
from ..chain.tables import Tables
from ..models.generate import ImageNoise
from ..store import finite
from ..store.checkpoint import sha256
from ..world import dist_util
from . import exposure_bias, exposure_report, frame
from .exposure_bias import NORMAL, Batch, Estimate, Measured, mean
from .subject import packed, unpacked


@dataclass
class Chains:
    """A network under study, in eval mode, on this rank's batches of the images."""

    name: str
    path: str
    model: torch.nn.Module
    diffusion: Tables
    batches: list[Batch]  # of all, every n-th of n ranks
    key: str  # a hash of what its numbers depend on
    bar: Bar | None = None
    ranks: float = 1.0  # how much all of them do, in units of what this one does

    def __call__(self, x: Tensor, t: Tensor, **kwargs) -> Tensor:
        self.bar.update(len(x) * self.ranks)
        return self.model(x, t, **kwargs)

    def about(self) -> dict:
        return {"name": self.name, "path": self.path, "sha256": sha256(self.path)}


class EXPOSURE(frame.Measure):
    """Measures the norms along chains of `sampler`, from the prior and each `prior_shift`."""

    together = True

    def __init__(self, *, prior_shift: str, sampler: str, clip_denoised: bool):
        self.priors = priors_of(prior_shift)
        self.sampling = {"sampler": sampler, "clip_denoised": clip_denoised}
        self.first = None  # network, and what was measured of it

    def tasks(self, subject: Chains) -> dict[str, frame.Task]:
        """Measure arrays, in full, of noised images, chains begun at them, and at each prior."""
        given = subject, subject.diffusion, subject.batches, self.priors, dist_util.gather_rows
        parts = exposure_bias.parts(*given, **self.sampling)
        return {n: functools.partial(_of_part, subject, n, part) for n, part in parts.items()}

    def result(self, subject: Chains, found: list) -> dict:
        """Return the `numbers`; from the second on, "less": the first, and the `difference`."""
        arrays = [{k: unpacked(v, np.float64).numpy() for k, v in part.items()} for part in found]
        m = exposure_bias.measured(arrays, self.priors)
        told = numbers(m, subject.diffusion)
        if self.first:
            name, base = self.first
            return told | {"less": {"name": name} | difference(m, base, subject.diffusion)}
        self.first = subject.name, m
        return told

    def tables(self, record: dict) -> dict[str, list[dict]]:
        shifts = {"prior_shift": exposure_report.prior_rows(record)} if len(self.priors) > 1 else {}
        return {"exposure_bias": exposure_report.curve_rows(record)} | shifts

    def text(self, record: dict) -> str:
        return exposure_report.table(record)

    def figures(self, record: dict) -> dict[str, Figure]:
        swept = exposure_report.sweeps_of(record)
        shifts = {"prior_shift": exposure_report.priors(record)} if swept else {}
        return {"exposure_bias": exposure_report.curves(record)} | shifts

    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """Give noise_norm; of training and sampling, the two norms, and of the size of their gap:
        NAME_start, at the step nearest t = 0, and NAME_mean, over the other steps; `model` has the
        record's noise_norm beside."""
        found = {"noise_norm": model["noise_norm"]}
        for name in ("training", "sampling", "gap"):
            start, *rest = (math.nan if v is None else abs(v) for v in model[name]["value"])
            mean_of_rest = math.fsum(rest) / len(rest) if rest else None
            found |= {f"{name}_start": start, f"{name}_mean": mean_of_rest}
        return found

    @staticmethod
    def lines(model: dict) -> list[frame.Line]:
        """Give both norms and their gap along the chain; as `shown`, and with timesteps."""
        x, noise, t = model["timesteps"], model["noise_norm"], "timestep t (0: least noise)"
        norm, gap = "‖predicted noise‖₂; grey: the noise's", "difference of ‖predicted noise‖₂"
        return [
            frame.Line(title, x, model[name]["value"], t, ylabel, level=level)
            for name, title, ylabel, level in (
                ("training", "on real images (training)", norm, noise),
                ("sampling", "along the sampling chain", norm, noise),
                ("gap", "gap: sampling less training", gap, 0),
            )
        ]


def batch(rows: Tensor, x_start: Tensor, t: Tensor, cond: dict[str, Tensor], seed: int) -> Batch:
    """Take the rows [n] of all images, timesteps and labels to this rank's device."""
    device, indices = dist_util.dev(), rows.tolist()
    x_start, t = x_start[rows].to(device), t[rows].to(device)
    cond = {name: values[rows].to(device) for name, values in cond.items()}
    return Batch(x_start, lambda: ImageNoise(seed, indices, device), t, cond)


def _of_part(subject: Chains, name: str, part: Callable) -> dict[str, list]:
    calls = subject.diffusion.num_timesteps + name.startswith("prior")
    own = sum(len(batch.x_start) for batch in subject.batches)
    every = sum(dist_util.all_gather_object(own))
    subject.ranks = every / max(own, 1)
    look = {"desc": f"{subject.name}, {name}", "unit": "image", "unit_scale": True}
    with Bar(total=calls * every, **look) as subject.bar:
        arrays = part()
    finite.check(arrays, f"exposure bias of {subject.path}")
    return {key: packed(torch.from_numpy(values), np.float64) for key, values in arrays.items()}


def priors_of(text: str) -> list[tuple[float, float]]:
    """Read text such as 0.1:1,0:1.2: pairs (mu, s), after (0, 1), the prior as it should be."""
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


def check_one_chain(networks: dict) -> None:
    """Raise ValueError unless all (network, chain), by name, make images of one size, and have the
    same noise at each step."""
    (first, (model, chain)), *others = networks.items()
    for name, (other_model, other) in others:
        mine = model.image_size, chain.timestep_map, _levels(chain)
        if mine != (other_model.image_size, other.timestep_map, _levels(other)):
            raise ValueError(
                f"{name} has another image_size or noise schedule than {first}, so their curves "
                "do not compare: study them in runs of their own"
            )


def _levels(chain) -> list[list[float]]:
    return [chain.alphas.tolist(), chain.sigmas.tolist()]


def about(x_start: Tensor, labels: dict[str, Tensor], diffusion, models: list[dict]) -> dict:
    """Return what a record says beside its settings: of images, chain and models."""
    real = {name: v.numpy() for name, v in exposure_bias.image_statistics(x_start).items()}
    return {
        "num_images": len(x_start),
        "timesteps": diffusion.timestep_map,
        "eps_scale": diffusion.eps_scale.tolist(),
        "noise_norm": math.sqrt(x_start[0].numel()),
        "perfect_delta": plain(exposure_bias.forgetful_delta(x_start, diffusion, labels.get("y"))),
        "real_images": plain(statistics(real)),
        "models": models,
    }


def numbers(m: Measured, diffusion) -> dict:
    """Return the curves over t, and "priors": for each (mu, s) loss, late norms, images.

    training: the norm of the network's output on noised images; output: along the chain; sampling:
    of the noise that the sampler takes, output / eps_scale. gap and output_gap: sampling and
    output, less training. The scaling is to close the first (Ning et al. 2024); the second says how
    the network finds its inputs changed. loss_rise: over that at (0, 1). late_norm: of the output,
    over the last tenth of the chain's steps. mean and std of the images are by channel.
    """
    output = m.begun[NORMAL]["norms"]
    sampling = output / diffusion.eps_scale
    norms = {"training": m.training, "sampling": sampling, "gap": sampling - m.training}
    norms |= {"output": output, "output_gap": output - m.training}
    estimates = {name: mean(values) for name, values in norms.items()}
    estimates["delta"] = exposure_bias.delta(m, diffusion)
    late = max(1, diffusion.num_timesteps // 10)
    priors = [
        {
            "mu": mu,
            "s": s,
            "loss": mean(begun["loss"]),
            "loss_rise": mean(begun["loss"] - m.begun[NORMAL]["loss"]),
            "late_norm": mean(begun["norms"][:, :late].mean(axis=1)),
            **statistics(begun),
        }
        for (mu, s), begun in m.begun.items()
    ]
    return plain(estimates | {"priors": priors})


def difference(m: Measured, base: Measured, diffusion) -> dict:
    """Subtract base from m, by image: the gap, delta, and by prior the loss and its rise."""
    sigma, scale = diffusion.sigmas, diffusion.eps_scale
    gap, base_gap = (x.begun[NORMAL]["norms"] / scale - x.training for x in (m, base))
    whole, parts = np.stack([m.std, base.std]), np.stack([m.std_parts, base.std_parts])
    delta = exposure_bias.left_out(
        lambda std: (std[0] - sigma) ** 2 - (std[1] - sigma) ** 2, whole, parts
    )
    losses = {prior: m.begun[prior]["loss"] - base.begun[prior]["loss"] for prior in m.begun}
    priors = [
        {"mu": mu, "s": s, "loss": mean(loss), "loss_rise": mean(loss - losses[NORMAL])}
        for (mu, s), loss in losses.items()
    ]
    return plain({"gap": mean(gap - base_gap), "delta": delta, "priors": priors})


def statistics(columns: dict[str, np.ndarray]) -> dict[str, Estimate]:
    """Estimate images' statistics from the columns of `exposure_bias.image_statistics`."""
    std = exposure_bias.channel_std(columns["mean"], columns["square"])
    return {"mean": mean(columns["mean"]), "std": std, "clipped": mean(columns["clipped"])}


def plain(value):
    """Turn estimates and arrays into dicts, lists and numbers; None for what is not finite."""
    if isinstance(value, Estimate):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    if isinstance(value, list) or np.ndim(value):
        return [plain(v) for v in value]
    return float(value) if math.isfinite(value) else None
