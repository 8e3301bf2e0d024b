"""Averages of weights along training: average <- lerp(average, weights, coefficient).

EMA keeps the share `rate` of itself: coefficient 1 - rate. SWA is the equal-weight mean of what it
has been shown: coefficient 1 / (count + 1). Power is an EMA whose memory grows with the training.
An average sees a list of tensors, and knows neither their names nor when it is updated.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .posthoc import gamma_of

STALE = 0.05  # share of its first weights above which an EMA is none of the later ones


class Average:
    """A list of fp32 `weights` that follows another; `count` updates done."""

    def __init__(self, weights: Sequence[Tensor]):
        self.weights = [w.detach().float().clone() for w in weights]
        self.count = 0

    @property
    def coefficient(self) -> float:
        """Share of the new weights in the next update, in (0, 1]."""
        raise NotImplementedError

    @property
    def started(self) -> bool:
        """Whether its weights are an average; before, they are only a shape."""
        return True

    def due(self, step: int, taken: bool = True) -> bool:
        """Whether it takes the weights after so many steps; `taken`: whether the last one moved
        them, and did not overflow."""
        return taken

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor]) -> None:
        torch._foreach_lerp_(self.weights, list(weights), self.coefficient)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "count": self.count}

    def progress(self) -> dict[str, int]:
        """What it knows beside its weights, to go on from."""
        return {"count": self.count}

    def go_on(self, progress: dict[str, int], step: int) -> None:
        """Take what `progress` gave, or {}: then it begins at `step`."""
        self.count = progress.get("count", 0)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy in place. ValueError if the shapes are not those of this average."""
        here, there = ([tuple(w.shape) for w in ws] for ws in (self.weights, state["weights"]))
        if here != there:
            raise ValueError(
                f"this average has {len(here)} tensors, the saved one {len(there)}, or their shapes"
                " differ: it was saved for another network. Use that network's flags."
            )
        torch._foreach_copy_(self.weights, list(state["weights"]))
        self.count = state["count"]


class EMA(Average):
    """Exponential moving average: ema <- rate ema + (1 - rate) weights. It starts at `weights`.

    rate: share kept per update, in [0, 1): it remembers about 1 / (1 - rate) updates.
    """

    def __init__(self, weights: Sequence[Tensor], rate: float = 0.9999):
        if not 0 <= rate < 1:
            raise ValueError(
                f"ema_rate {rate}: it is the share of the average kept per update and must be in"
                " [0, 1), for example 0.9999 (0 follows the weights, 1 would never move)"
            )
        super().__init__(weights)
        self.rate = rate

    @property
    def coefficient(self) -> float:
        return 1 - self.rate

    def progress(self) -> dict[str, int]:
        return {}


class SWA(Average):
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of all weights shown so far.

    The weights given at the start are only a shape; the first update replaces them.
    window: steps between two updates, the first `window` steps after `start`.
    """

    def __init__(self, weights: Sequence[Tensor], window: int = 1, start: int = 0):
        if window < 1:
            raise ValueError(f"swa_window {window}: expected 1 step or more between two updates")
        super().__init__(weights)
        self.window, self.start = window, start

    @property
    def started(self) -> bool:
        return self.count > 0

    def progress(self) -> dict[str, int]:
        return {"count": self.count, "start": self.start}

    def go_on(self, progress: dict[str, int], step: int) -> None:
        super().go_on(progress, step)
        self.start = progress.get("start", step)

    def due(self, step: int, taken: bool = True) -> bool:
        return step > self.start and (step - self.start) % self.window == 0

    @property
    def coefficient(self) -> float:
        return 1 / (self.count + 1)


class Power(Average):
    """Power-function EMA (Karras et al. 2024, section 3.1): update t keeps (1 - 1/t)^(gamma + 1).

    The weights given at the start are only a shape; the first update replaces them.
    sigma_rel: its width as a share of the updates so far, in (0, 0.2887): see `posthoc.gamma_of`.
    """

    def __init__(self, weights: Sequence[Tensor], sigma_rel: float = 0.1):
        super().__init__(weights)
        self.sigma_rel, self.gamma = sigma_rel, gamma_of(sigma_rel)

    @property
    def started(self) -> bool:
        return self.count > 0

    @property
    def coefficient(self) -> float:
        return 1 - (1 - 1 / (self.count + 1)) ** (self.gamma + 1)


def caution(rate: float, updates: int) -> str:
    """A sentence warns of an EMA that still holds more than 5 % of its first weights; else ""."""
    share = rate**updates
    if share <= STALE:
        return ""
    best = math.floor(1e4 * STALE ** (1 / updates)) / 1e4 if updates else 0
    return (
        f"an EMA of rate {rate:g} holds {share:.0%} of its first weights after {updates} updates; "
        f"a rate of {best:g} or lower holds no more than {STALE:.0%}"
    )


def parse_rates(ema_rate: str | float) -> list[float]:
    """Text as 0.999,0.9999 or one number -> the rates of the EMAs."""
    try:
        return [float(rate) for rate in str(ema_rate).split(",") if rate]
    except ValueError:
        raise ValueError(
            f"ema_rate is {ema_rate!r}; expected numbers separated by commas, as 0.999,0.9999"
        ) from None
