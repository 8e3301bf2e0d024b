"""What is drawn before a training step: timesteps, their importance weights, and noise.

A timestep sampler draws t with probability p_t, and weighs its loss by q_t / p_t, so that the
expected loss is that of t by q: of uniform t, 1 / T, unless the chain has a density of its own.
`draw` makes everything random of a step at once, for all ranks.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """The images of a training step and all that is random about them, but dropout.

    x_start, noise: [N, C, H, W]; t [N] int64; weight [N]; model_kwargs: name -> [N, ...], as y, or
    dicts of such; input_noise: [N, C, H, W], what input perturbation adds to noise, or None.
    """

    x_start: Tensor
    t: Tensor
    noise: Tensor
    weight: Tensor
    model_kwargs: dict[str, Tensor]
    input_noise: Tensor | None = None

    def slice(self, start: int, stop: int) -> "Draw":
        """The images start .. stop-1, with what belongs to them."""
        tensors = {name: value for name, value in vars(self).items() if torch.is_tensor(value)}
        given = rows(self.model_kwargs, start, stop)
        own = {name: value[start:stop] for name, value in tensors.items()}
        return replace(self, **own, model_kwargs=given)

    def losses(self, diffusion, model: Callable) -> dict[str, Tensor]:
        """The terms [N] that the chain's training_losses gives at these draws."""
        noises = {"noise": self.noise, "input_noise": self.input_noise}
        return diffusion.training_losses(model, self.x_start, self.t, self.model_kwargs, **noises)

    def split(self, sizes: int | Sequence[int]) -> list["Draw"]:
        """Consecutive parts, of one size (the last may be smaller) or of several."""
        parts = torch.arange(len(self.t)).split(sizes)
        return [self.slice(int(part[0]), int(part[-1]) + 1) for part in parts]


def rows(values: Any, start: int, stop: int) -> Any:
    """Rows start .. stop-1 of each tensor in nested dicts; anything else is for all rows."""
    if isinstance(values, dict):
        return {name: rows(value, start, stop) for name, value in values.items()}
    return values[start:stop] if torch.is_tensor(values) else values


def draw(
    schedule_sampler: "ScheduleSampler",
    x_start: Tensor,
    model_kwargs: dict[str, Tensor],
    generator: torch.Generator,
    shard: int = 0,
    num_shards: int = 1,
    input_pertub: float = 0.0,
    class_dropout: float = 0.0,
    null_label: int | None = None,
) -> Draw:
    """The Draw for x_start [N, C, H, W], the part `shard` of a batch of num_shards equal parts.

    It is drawn for the whole batch from `generator`, which is to be in the same state in all shards
    (t, then noise, then input_noise if input_pertub is not 0, then which labels become null_label
    if class_dropout, their share, is not), and cut: so the number of shards changes nothing.
    """
    size = len(x_start)
    own = slice(shard * size, (shard + 1) * size)
    device = x_start.device
    t, weight = schedule_sampler.sample(size * num_shards, device, generator)

    def randn() -> Tensor:
        shape = (size * num_shards, *x_start.shape[1:])
        kind = {"device": generator.device, "dtype": x_start.dtype}
        return torch.randn(shape, generator=generator, **kind)[own].to(device)

    noise = randn()
    input_noise = randn() if input_pertub else None
    if class_dropout:
        u = torch.rand(size * num_shards, generator=generator, device=generator.device)[own]
        y = model_kwargs["y"].masked_fill((u < class_dropout).to(device), null_label)
        model_kwargs = model_kwargs | {"y": y}
    return Draw(x_start, t[own], noise, weight[own], model_kwargs, input_noise)


def create_named_schedule_sampler(name: str, diffusion) -> "ScheduleSampler":
    """The timestep sampler of a name, for a chain; of it num_timesteps is read, and a density."""
    samplers = {"uniform": UniformSampler, "loss-second-moment": LossSecondMomentResampler}
    if name not in samplers:
        raise ValueError(f"schedule_sampler is {name!r}; valid are {', '.join(samplers)}")
    return samplers[name](diffusion)


class ScheduleSampler(ABC):
    """A distribution over the timesteps 0 .. T-1.

    density: [T], of the timesteps in the loss that is meant; None: each alike.
    """

    density: np.ndarray | None = None

    @abstractmethod
    def weights(self) -> np.ndarray:
        """Positive weights [T], proportional to the probabilities."""

    def sample(
        self, batch_size: int, device, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """t [N] int64 and importance weights [N] float32 on `device`, drawn on the generator's."""
        origin = device if generator is None else generator.device
        weights = self.weights()
        p = torch.from_numpy(weights / weights.sum()).to(origin)
        u = torch.rand(batch_size, generator=generator, device=origin, dtype=p.dtype)
        t = torch.searchsorted(p.cumsum(0), u, right=True).clamp_(max=len(p) - 1)
        if self.density is None:
            return t.to(device), (1.0 / (len(p) * p[t])).float().to(device)
        q = torch.from_numpy(self.density / self.density.sum()).to(origin)
        return t.to(device), (q[t] / p[t]).float().to(device)

    def update_with_local_losses(  # noqa: B027 - most samplers have nothing to learn
        self, local_ts: Tensor, local_losses: Tensor
    ) -> None:
        """Learn from this rank's t [N] and losses [N]; only a loss-aware sampler does."""


class UniformSampler(ScheduleSampler):
    """Each timestep alike, or by the chain's density: all weights are 1."""

    def __init__(self, diffusion):
        self.num_timesteps = diffusion.num_timesteps
        self.density = getattr(diffusion, "density", None)

    def weights(self) -> np.ndarray:
        return np.ones(self.num_timesteps) if self.density is None else self.density

    def sample(self, batch_size, device, generator=None):
        origin = device if generator is None else generator.device
        drawn = {"generator": generator, "device": origin}
        if self.density is None:
            t = torch.randint(self.num_timesteps, (batch_size,), **drawn)
        else:
            edges = self._edges(str(origin))
            u = torch.rand(batch_size, dtype=edges.dtype, **drawn)
            t = torch.searchsorted(edges, u, right=True).clamp_(max=len(edges) - 1)
        return t.to(device), torch.ones(batch_size, device=device)

    @functools.cache  # noqa: B019 - a few numbers, as long as the sampler
    def _edges(self, device: str) -> Tensor:
        """[T]: the density's sums up to each timestep, which no step moves to the device again."""
        return torch.from_numpy(self.density / self.density.sum()).to(device).cumsum(0)


class LossAwareSampler(ScheduleSampler):
    """A distribution that follows the losses seen.

    gather: tensor [N] -> the tensors of all ranks, joined in rank order; a run of several ranks
    sets it, so that all have seen the same.
    """

    gather = staticmethod(lambda tensor: tensor)

    def update_with_local_losses(self, local_ts: Tensor, local_losses: Tensor) -> None:
        """Learn from this rank's t [N] and losses [N], and from those of the other ranks."""
        ts, losses = self.gather(local_ts), self.gather(local_losses.detach())
        self.update_with_all_losses(ts.tolist(), losses.tolist())

    @abstractmethod
    def update_with_all_losses(self, ts: list[int], losses: list[float]) -> None:
        """Learn from all ranks' t and losses, which are in the same order on every rank."""


class LossSecondMomentResampler(LossAwareSampler):
    """p_t ~ sqrt(E[loss_t^2]) over the last losses of each t (Nichol & Dhariwal 2021, eq. 18),
    times the chain's density, if it has one, which makes the variance least for that loss.

    Uniform until every t has history_per_term losses; then mixed with uniform_prob of uniform.
    """

    def __init__(self, diffusion, history_per_term: int = 10, uniform_prob: float = 0.001):
        self.uniform_prob = uniform_prob
        self.density = getattr(diffusion, "density", None)
        self.history = np.zeros((diffusion.num_timesteps, history_per_term))
        self.counts = np.zeros(diffusion.num_timesteps, dtype=np.int64)

    def weights(self) -> np.ndarray:
        if (self.counts < self.history.shape[1]).any():
            return np.ones(len(self.counts))
        weights = np.sqrt(np.mean(self.history**2, axis=1))
        if self.density is not None:
            weights *= self.density
        weights /= weights.sum()
        return (1 - self.uniform_prob) * weights + self.uniform_prob / len(weights)

    def update_with_all_losses(self, ts: list[int], losses: list[float]) -> None:
        for t, loss in zip(ts, losses, strict=True):
            if np.isfinite(loss):  # one that overflowed would stay in the mean as a nan
                self.history[t, self.counts[t] % self.history.shape[1]] = loss
                self.counts[t] += 1

    def state_dict(self) -> dict[str, Tensor]:
        arrays = {"history": self.history, "counts": self.counts}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a saved history; ValueError when it is of other timesteps or length, or of
        numbers that no losses and counts are."""
        if tuple(state["history"].shape) != self.history.shape:
            raise ValueError(
                f"the timestep sampler's history is saved as {tuple(state['history'].shape)}, and "
                f"this run's is {self.history.shape} (timesteps, losses each): resume with the "
                "same diffusion_steps and timestep_respacing"
            )
        history, counts = (state[name].numpy().copy() for name in ("history", "counts"))
        kinds = [(array.dtype, array.shape) for array in (history, counts)]
        if kinds != [(own.dtype, own.shape) for own in (self.history, self.counts)]:
            raise ValueError(f"the timestep sampler's history and counts are saved as {kinds}")
        if (counts < 0).any() or not np.isfinite(history).all():
            raise ValueError("the timestep sampler's counts or losses are saved below 0, or as nan")
        self.history, self.counts = history, counts
