"""A shorter chain out of a longer one: which of its timesteps are kept, and their betas.

The shorter chain has the longer one's alphas_cumprod at the kept timesteps, and asks the network
about them by their original indices; so training, losses and every sampler work on it as they are.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from .gaussian_diffusion import GaussianDiffusion

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0  # EDM's (Karras et al. 2022, table 1)


def space_timesteps(
    num_timesteps: int, section_counts: str | Iterable[int], log_snr: np.ndarray | None = None
) -> set[int]:
    """The timesteps to keep out of 0 .. num_timesteps - 1.

    section_counts: "a,b,c" or [a, b, c] cuts the chain into as many equal sections (the first ones
    longer by one where that does not divide) and keeps so many steps of each, both of its ends
    included; "ddimN" keeps N steps at one integer stride from 0 on (Song et al. 2020); "edmN" the N
    that lie nearest to EDM's grid (Karras et al. 2022), of a chain of this log_snr [T]; "" keeps
    all. Raises ValueError where that cannot be done.
    """
    if isinstance(section_counts, str):
        if section_counts.startswith("edm") and log_snr is not None:
            return _nearest(np.exp(-np.asarray(log_snr) / 2), section_counts)
        if section_counts.startswith("ddim"):
            return _evenly(num_timesteps, section_counts)
        section_counts = _parse(section_counts)
    section_counts = list(section_counts) or [num_timesteps]
    size, longer = divmod(num_timesteps, len(section_counts))
    kept, start = set(), 0
    for i, wanted in enumerate(section_counts):
        length = size + (i < longer)
        if not 0 <= wanted <= length:
            raise ValueError(
                f"timestep_respacing asks for {wanted} steps of section {i + 1} of "
                f"{len(section_counts)}, which has {length} of the {num_timesteps} timesteps: "
                f"give a number from 0 to {length}"
            )
        kept.update(start + step for step in _spread(length, wanted))
        start += length
    return kept


def _evenly(num_timesteps: int, respacing: str) -> set[int]:
    """The N steps of "ddimN" at the smallest stride that gives exactly N."""
    by_length = {}
    for stride in range(1, num_timesteps):
        steps = range(0, num_timesteps, stride)
        by_length.setdefault(len(steps), steps)
    wanted = respacing.removeprefix("ddim")
    if not wanted.isdecimal() or int(wanted) not in by_length:
        raise ValueError(
            f"timestep_respacing is {respacing!r}, and no integer stride takes that many of "
            f"{num_timesteps} timesteps: valid are ddimN with N of {sorted(by_length)}"
        )
    return set(by_length[int(wanted)])


def _parse(respacing: str) -> list[int]:
    try:
        return [int(part) for part in respacing.split(",")] if respacing else []
    except ValueError:
        raise ValueError(
            f"timestep_respacing is {respacing!r}; valid are a number of steps (100), one for each "
            "of some equal sections (10,20,30), ddim or edm and a number (ddim50, edm18), or "
            "nothing for all"
        ) from None


def edm_grid(
    count: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> np.ndarray:
    """EDM's noise levels, rising: equal steps of sigma^(1 / rho) (Karras et al. 2022, eq. 5)."""
    return np.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), count) ** rho


def _nearest(sigma: np.ndarray, respacing: str) -> set[int]:
    """The N steps of "edmN": of sigma / alpha [T], rising, the nearest to EDM's grid of N."""
    wanted = respacing.removeprefix("edm")
    if not wanted.isdecimal() or int(wanted) < 2:
        raise ValueError(f"timestep_respacing is {respacing!r}; expected edmN with N of 2 or more")
    ends = {"sigma_min": max(SIGMA_MIN, sigma[0]), "sigma_max": min(SIGMA_MAX, sigma[-1])}
    power = 1 / RHO  # the grid's own axis, on which it is even
    grid = edm_grid(int(wanted), **ends) ** power
    kept = {int(np.abs(sigma**power - level).argmin()) for level in grid}
    if len(kept) < int(wanted):
        raise ValueError(
            f"timestep_respacing is {respacing!r}, and {len(sigma)} timesteps have only "
            f"{len(kept)} that lie nearest to one of these levels: take fewer, or a count"
        )
    return kept


def _spread(length: int, wanted: int) -> list[int]:
    """`wanted` indices of range(length), its two ends included, at one fractional stride.

    The stride is added up, as in guided-diffusion: multiplying it by an index rounds differently,
    and gives other timesteps (for 21 of 1000, say) than published samples were made with.
    """
    stride = (length - 1) / (wanted - 1) if wanted > 1 else 1.0
    return [round(position) for position in islice(count(0.0, stride), wanted)]


class SpacedDiffusion(GaussianDiffusion):
    """The chain of `kwargs` (those of GaussianDiffusion) at some of its timesteps only.

    t is an index into the kept steps everywhere; only the network and cond_fn see the original one.
    timestep_map: original index of each kept step, ascending; original_num_steps: the longer T;
    every_alphas_cumprod: abar of all its steps.
    """

    def __init__(self, use_timesteps: Iterable[int], **kwargs):
        self.use_timesteps = set(use_timesteps)
        self.timestep_map = sorted(self.use_timesteps)
        self.original_num_steps = len(kwargs["betas"])
        if not self.use_timesteps <= set(range(self.original_num_steps)):
            raise ValueError(
                f"use_timesteps holds {self.timestep_map[0]} .. {self.timestep_map[-1]}, but the "
                f"chain has the timesteps 0 .. {self.original_num_steps - 1}"
            )
        alphas_cumprod = np.cumprod(1.0 - np.asarray(kwargs["betas"], dtype=np.float64))
        self.every_alphas_cumprod = alphas_cumprod
        kept = alphas_cumprod[self.timestep_map]
        super().__init__(**kwargs | {"betas": 1.0 - kept / np.append(1.0, kept[:-1])})

    def p_mean_variance(self, model: Callable, *args, **kwargs):
        return super().p_mean_variance(self._wrap_model(model), *args, **kwargs)

    def training_losses(self, model: Callable, *args, **kwargs):
        return super().training_losses(self._wrap_model(model), *args, **kwargs)

    def condition_mean(self, cond_fn: Callable, *args, **kwargs):
        return super().condition_mean(self._wrap_model(cond_fn), *args, **kwargs)

    def condition_score(self, cond_fn: Callable, *args, **kwargs):
        return super().condition_score(self._wrap_model(cond_fn), *args, **kwargs)

    def _wrap_model(self, model: Callable) -> "_WrappedModel":
        """The network or cond_fn as a function of an index into the kept steps."""
        if isinstance(model, _WrappedModel):
            return model
        kept = self.timestep_map, self.rescale_timesteps, self.original_num_steps
        return _WrappedModel(model, *kept, on_device=partial(self._table, "timestep_map"))

    def _scale_timesteps(self, t: Tensor) -> Tensor:
        """t itself: `_wrap_model` scales the original index."""
        return t


class _WrappedModel:
    """model(x, t, **kwargs) for t an index into timestep_map, which on_device(device=) gives."""

    def __init__(
        self,
        model: Callable,
        timestep_map: Sequence[int],
        rescale_timesteps: bool,
        original_num_steps: int,
        on_device: Callable | None = None,
    ):
        self.model, self.timestep_map = model, timestep_map
        self.rescale_timesteps, self.original_num_steps = rescale_timesteps, original_num_steps
        self._on_device = on_device or partial(torch.tensor, timestep_map)

    def __call__(self, x: Tensor, ts: Tensor, **kwargs):
        t = self._on_device(device=ts.device)[ts]
        if self.rescale_timesteps:
            t = t.float() * (1000.0 / self.original_num_steps)
        return self.model(x, t, **kwargs)
