"""The fixed draws on which networks are compared, and their losses there.

Image i is noised once, with a timestep and a noise that are functions of the seed, and is shown as
it is to every network, perturbed or not (common random numbers): what differs between two losses
is due to the weights alone. Timesteps are stratified, and a weight for each image makes up for it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import bars
from ..rng import JITTER, MATCH, NOISE, ORDER, PROBE, generator
from .resample import Draw

SHARED = 8.0  # log-SNR up to which, to either side of 0, all families have noise levels
LEAST = 6  # images: two of each stratum, so that there is an error


def images_of(dataset, num_images: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """(images [N, 3, H, W] in [-1, 1], {"y": labels [N]} or {}), chosen at random by the seed.

    No image comes twice before all have come once. They are centre crops, never mirrored.

    :param dataset: has num_images, image(i) -> uint8 [H, W, 3], and labels, int64 or None.
    """
    order = torch.randperm(dataset.num_images, generator=generator(seed, PROBE, ORDER))
    chosen = np.resize(order.numpy(), num_images)
    squares = torch.from_numpy(np.stack([dataset.image(i) for i in chosen]))
    images = squares.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
    if dataset.labels is None:
        return images, {}
    return images, {"y": torch.from_numpy(dataset.labels[chosen])}


@dataclass(frozen=True)
class Plan:
    """Which timestep each image gets, and what it counts for; see `plan`.

    t, stratum, image: int64 [N], where `image` is the same for one that is used again; weight:
    float64 [N], of mean 1.
    """

    t: Tensor
    weight: Tensor
    stratum: Tensor
    image: Tensor

    def means(self, values: Tensor, groups: list[Tensor]) -> list[float]:
        """The mean over timesteps of values [N] in each group; nan for one without an image.

        A sum is rounded once, at its end, so it does not depend on the order of the images.
        """
        return [self._mean(values, group) for group in groups]

    def errors(self, values: Tensor, groups: list[Tensor]) -> list[float]:
        """Standard errors of `means`, over images (with their noise) and timesteps.

        That of a ratio of two stratified means (Cochran 1977, sections 5.6 and 6.11): each stratum
        has two images or more, so its variance is known without bias. An image that is used again
        is no new one. nan for a group of fewer than two images.
        """
        return [self._error(values, group) for group in groups]

    def shares(self, values: Tensor, group: Tensor) -> Tensor:
        """[N], 0 outside of the group: what each image does to the group's mean, to first order."""
        weight = self.weight * group
        return weight * (values - self._mean(values, group)) / weight.sum()

    def deviations(self, values: Tensor) -> Tensor:
        """[N]: what each image adds to the error of the mean over all timesteps; where no image is
        used again, the squares add up to that of `errors`."""
        _, rest, count = self._rest(values, torch.ones(len(values), dtype=torch.bool))
        return rest * ((count - 1) / count).sqrt()

    def _mean(self, values: Tensor, group: Tensor) -> float:
        weight = self.weight[group]
        total = math.fsum((weight * values[group]).tolist())
        return total / math.fsum(weight.tolist()) if len(weight) else math.nan

    def _error(self, values: Tensor, group: Tensor) -> float:
        if self.image[group].unique().numel() < 2:
            return math.nan
        sums, rest, count = self._rest(values, group)
        once = rest.square() * (count - 1) / count
        variance, images = once.sum(), self.image.unique().numel()
        if images < len(self.image):
            again = sums(rest, self.image).square().sum() - (rest.square() - once).sum()
            variance = max(variance, again * images / (images - 1))
        return math.sqrt(variance)

    def _rest(self, values: Tensor, group: Tensor) -> tuple[Callable, Tensor, Tensor]:
        """How parts are summed by another's numbers; the shares less their stratum's mean [N], and
        how many images their stratum has [N]."""
        shares = self.shares(values, group)

        def sums(parts: Tensor, of: Tensor) -> Tensor:
            return torch.zeros(int(of.max()) + 1, dtype=torch.float64).index_add_(0, of, parts)

        count = sums(torch.ones_like(shares), self.stratum)[self.stratum]
        rest = shares - sums(shares, self.stratum)[self.stratum] / count
        rest *= count / (count - 1)  # the products of two images' are now without bias
        return sums, rest, count


def plan(
    num_images: int, num_timesteps: int, t_range: int, seed: int, distinct: int | None = None
) -> Plan:
    """A timestep below t_range for each image, by the seed.

    The two ends of the chain, 0 and num_timesteps-1, are strata of their own (where they are in
    the range), of a sixteenth of the images each: the last step alone can hold nearly all of the
    variational bound. What lies between is cut into strata of two images, narrower towards both
    ends, as the cosine is, because losses change most there. Within a stratum t is uniform, and
    which images it gets is random. The weights are such that every t of the range counts alike.
    distinct: how many images there are; the others are these again, in the same order.
    """
    if not 1 <= t_range <= num_timesteps:
        raise ValueError(
            f"t_range is {t_range}; expected the number of timesteps, 1 to {num_timesteps}"
        )
    if num_images < LEAST:
        raise ValueError(
            f"num_images is {num_images}; expected {LEAST} or more: two at each end of the chain, "
            "and two between"
        )
    strata = _strata(num_images, num_timesteps, t_range)
    columns = [torch.from_numpy(np.array(column)) for column in zip(*strata)]
    stratum = torch.arange(len(strata)).repeat_interleave(columns[2])
    jitter = torch.rand(num_images, generator=generator(seed, PROBE, JITTER), dtype=torch.float64)
    low, high, count = (column[stratum] for column in columns)
    t = (low + jitter * (high - low)).long().minimum(high.ceil().long() - 1)
    weight = (high - low) / count * num_images / t_range
    order = torch.randperm(num_images, generator=generator(seed, PROBE, MATCH))
    image = torch.arange(num_images) % (distinct or num_images)
    return Plan(t[order], weight[order], stratum[order], image)


def _strata(num_images: int, num_timesteps: int, t_range: int) -> list[tuple[float, float, int]]:
    """(from, to, how many images), which cover 0 .. t_range."""
    ends = [t for t in sorted({0, num_timesteps - 1}) if t < t_range]
    inside = t_range - len(ends)
    at_ends = [max(2, num_images // 16)] * len(ends)
    if not inside:
        at_ends = [num_images // len(ends), -(-num_images // len(ends))][-len(ends) :]
    left = num_images - sum(at_ends)
    pairs = left // 2
    edges = 1 + inside * (1 - np.cos(np.linspace(0, np.pi, pairs + 1))) / 2
    counts = [2] * (pairs - 1) + [2 + left % 2] if pairs else []
    return [
        *((float(t), t + 1.0, count) for t, count in zip(ends, at_ends)),
        *zip(edges[:-1].tolist(), edges[1:].tolist(), counts),
    ]


def plan_of_log_snr(
    num_images: int, least: float, greatest: float, seed: int, distinct: int | None = None
) -> tuple[Tensor, Plan]:
    """(log-SNR float64 [N], a plan by which all of them count alike), for levels of any family.

    What lies between -8 and 8 is cut into strata of two images, alike for all families that reach
    that far. What is beyond, up to the ends of the range, is a stratum of its own at each side, of
    a sixteenth of the images. Level i is image i's: t is 0 .. N-1. A weight is the log-SNR that an
    image stands for.
    """
    if num_images < LEAST:
        raise ValueError(f"there are {num_images} images; expected {LEAST} or more")
    inner = max(least, -SHARED), min(greatest, SHARED)
    if not inner[0] < inner[1]:
        raise ValueError(
            f"the noise levels have a log-SNR of {least:g} to {greatest:g}; expected some between "
            f"{-SHARED:g} and {SHARED:g}"
        )
    ends = [(low, high) for low, high in ((least, inner[0]), (inner[1], greatest)) if low < high]
    at_ends = [max(2, num_images // 16)] * len(ends)
    pairs = (num_images - sum(at_ends)) // 2
    edges = np.linspace(*inner, pairs + 1).tolist()
    counts = [2] * (pairs - 1) + [num_images - sum(at_ends) - 2 * (pairs - 1)]
    low, high = (torch.tensor(side) for side in zip(*ends, *pairwise(edges)))
    low, high = low.double(), high.double()
    count = torch.tensor([*at_ends, *counts])
    stratum = torch.arange(len(count)).repeat_interleave(count)
    jitter = torch.rand(num_images, generator=generator(seed, PROBE, JITTER), dtype=torch.float64)
    log_snr = low[stratum] + jitter * (high - low)[stratum]
    weight = ((high - low) / count)[stratum]
    order = torch.randperm(num_images, generator=generator(seed, PROBE, MATCH))
    image = torch.arange(num_images) % (distinct or num_images)
    return log_snr[order], Plan(torch.arange(num_images), weight[order], stratum[order], image)


def fixed_draws(
    images: Tensor, plan: Plan, seed: int, model_kwargs: dict[str, Tensor] | None = None
) -> Draw:
    """Each of the images [N, C, H, W] with the plan's timestep and weight, and a noise by the seed.

    The noise of image i depends on (seed, i) alone. There is no input perturbation in these draws.
    All is made on the CPU, and lies where the images lie.
    """
    generators = (generator(seed, PROBE, NOISE, i) for i in range(len(images)))
    noise = torch.stack([torch.randn(images.shape[1:], generator=own) for own in generators])
    drawn = (tensor.to(images.device) for tensor in (plan.t, noise, plan.weight.float()))
    given = _placed(model_kwargs or {}, images.device)
    return Draw(images, *drawn, given, torch.zeros(1).to(images.device).expand(images.shape))


def _placed(values: Any, device: torch.device) -> Any:
    if isinstance(values, dict):
        return {name: _placed(value, device) for name, value in values.items()}
    return values.to(device) if torch.is_tensor(values) else values


def timesteps(num_images: int, t_range: int, seed: int) -> Tensor:
    """int64 [num_images]: one from each of num_images strata of 0 .. t_range-1, in random order."""
    if t_range < 1:
        raise ValueError(f"t_range is {t_range}; expected the number of timesteps, 1 or more")
    jitter = torch.rand(num_images, generator=generator(seed, PROBE, JITTER), dtype=torch.float64)
    strata = (torch.arange(num_images) + jitter) * t_range / num_images
    order = torch.randperm(num_images, generator=generator(seed, PROBE, MATCH))
    return strata.long().clamp(max=t_range - 1)[order]


def losses(loss: Callable[[Any], dict[str, Tensor]], parts: Sequence) -> dict[str, Tensor]:
    """float64 [N] on the CPU by term: loss(part) -> terms [n] of each part of some draws, joined.

    Equal parts give equal losses, bit for bit; others differ by rounding.
    """
    with torch.no_grad():
        found = [loss(part) for part in bars.shares(parts)]
    rows = [torch.cat([terms[name] for terms in found]) for name in found[0]]
    return dict(zip(found[0], torch.stack(rows).double().cpu()))


def fitting(run: Callable[[int], object], batch_size: int) -> int:
    """The largest of batch_size, its half, a quarter, ... for which run(batch_size) has memory."""
    while True:
        try:
            run(batch_size)
            return batch_size
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        batch_size = (batch_size + 1) // 2  # here, where the failed pass no longer holds memory


def quarters(t: Tensor, t_range: int) -> list[Tensor]:
    """Which of t [N] are meant: bool [N] for all of them, then for each quarter of the range."""
    quarter = (t.cpu() * 4).div(t_range, rounding_mode="floor")
    return [torch.ones_like(quarter, dtype=torch.bool), *(quarter == q for q in range(4))]
