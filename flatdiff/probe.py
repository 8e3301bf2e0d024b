"""The fixed draws on which networks are compared, and their losses there.

Image i is noised once, with a timestep and a noise that are functions of (seed, i), and is then
shown as it is to every network, perturbed or not (common random numbers): what differs between two
losses is due to the weights alone. Knows neither files nor how weights are moved.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .resample import Draw
from .rng import generator

STREAM = 2000  # of the draws, far from rng's other streams
ORDER, JITTER, MATCH, NOISE = range(4)


def images_of(dataset, num_images: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """(images [N, 3, H, W] in [-1, 1], {"y": labels [N]} or {}), chosen at random by the seed.

    No image comes twice before all have come once. They are centre crops, never mirrored.

    :param dataset: has num_images, image(i) -> uint8 [H, W, 3], and labels, int64 or None.
    """
    order = torch.randperm(dataset.num_images, generator=generator(seed, STREAM, ORDER))
    chosen = np.resize(order.numpy(), num_images)
    squares = torch.from_numpy(np.stack([dataset.image(i) for i in chosen]))
    images = squares.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
    if dataset.labels is None:
        return images, {}
    return images, {"y": torch.from_numpy(dataset.labels[chosen])}


def fixed_draws(
    images: Tensor, t_range: int, seed: int, model_kwargs: dict[str, Tensor] | None = None
) -> Draw:
    """Each of the images [N, C, H, W] with a timestep below t_range and a noise, by the seed.

    t is stratified: 0 .. t_range-1 is cut into N equal strata, each gives one t, drawn within it,
    and goes to an image chosen at random; so each t is as likely as under uniform t. The noise of
    image i depends on (seed, i) alone. There is no input perturbation in these draws. All is made
    on the CPU, and lies where the images lie.
    """
    noise = torch.stack(
        [
            torch.randn(image.shape, generator=generator(seed, STREAM, NOISE, i))
            for i, image in enumerate(images)
        ]
    )
    device = images.device
    return Draw(
        x_start=images,
        t=timesteps(len(images), t_range, seed).to(device),
        noise=noise.to(device),
        weight=torch.ones(len(images), device=device),
        model_kwargs={k: v.to(device) for k, v in (model_kwargs or {}).items()},
        input_noise=torch.zeros(1, device=device).expand(images.shape),
    )


def timesteps(num_images: int, t_range: int, seed: int) -> Tensor:
    """int64 [num_images]: one from each of num_images strata of 0 .. t_range-1, in random order."""
    if t_range < 1:
        raise ValueError(f"t_range is {t_range}; expected the number of timesteps, 1 or more")
    jitter = torch.rand(num_images, generator=generator(seed, STREAM, JITTER), dtype=torch.float64)
    strata = (torch.arange(num_images) + jitter) * t_range / num_images
    order = torch.randperm(num_images, generator=generator(seed, STREAM, MATCH))
    return strata.long().clamp(max=t_range - 1)[order]


def losses(model: Callable, diffusion, draws: Draw, batch_size: int) -> dict[str, Tensor]:
    """{"loss", and of the MSE types "mse" and "vb"}: float64 [N] on the CPU, one for each image.

    The network is to be in eval mode, and on the device of the draws. Equal batch sizes give equal
    losses, bit for bit; others differ by rounding.
    """
    with torch.inference_mode():
        parts = [
            diffusion.training_losses(
                model, part.x_start, part.t, part.model_kwargs, part.noise, part.input_noise
            )
            for part in draws.split(batch_size)
        ]
    return {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}


def fitting(run: Callable[[int], object], batch_size: int) -> int:
    """The largest of batch_size, its half, a quarter, ... for which run(batch_size) has memory.

    What `run` returns is dropped. Out of memory at 1 is raised as it is.
    """
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


def means(losses: Tensor, groups: list[Tensor]) -> list[float]:
    """The mean of losses [N] in each group; nan for one without an image.

    A sum is rounded once, at its end, so it does not depend on the order of the images.
    """
    return [_mean(losses[group].tolist()) for group in groups]


def errors(losses: Tensor, groups: list[Tensor]) -> list[float]:
    """Standard errors of `means`, over images; nan for a group of less than two.

    They are those of independent t, and so too large: stratified t vary less.
    """
    return [_error(losses[group].tolist()) for group in groups]


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _error(values: list[float]) -> float:
    mean, n = _mean(values), len(values)
    return (
        math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else math.nan
    )
