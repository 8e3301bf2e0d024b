"""How much the loss rises when the weights are moved at random, and how well that is known."""

import torch
from torch import Tensor

from . import flatness
from .frame import Measure


def middle(model: dict) -> dict:
    """The point of the middle size of a curve, in ascending order; of two, the larger."""
    return model["curve"][len(model["curve"]) // 2]


def rises(model: dict, point: dict, term: str) -> Tensor:
    """L(w + d) - L(w), float64 [pairs of draws, 5]: over all timesteps, and each quarter."""
    at_w = torch.tensor(model["at_w"][term]["losses"], dtype=torch.float64)
    return flatness.pairs(torch.tensor(point["losses"][term], dtype=torch.float64) - at_w)


class LPF(Measure):
    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """The headline's loss at the weights, and its mean rise at the middle size."""
        term = next(iter(model["at_w"]))
        rise = rises(model, middle(model), term).mean(dim=0)[0]
        return {"at_w": model["at_w"][term]["losses"][0], "rise": float(rise)}


class MC(LPF):
    pass
