"""How much the loss rises when the weights are moved at random, and how well that is known."""

import math

import torch
from torch import Tensor

from . import flatness
from .frame import Line, Measure

LENGTH = "length of the perturbation of the weights"


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

    @staticmethod
    def lines(model: dict) -> list[Line]:
        """The loss against the length of the noise."""
        term, lengths, rise = _along(model)
        at_w = model["at_w"][term]["losses"][0]
        y = [at_w, *(at_w + r for r in rise)]
        return [Line("Gaussian noise", [0.0, *lengths], y, LENGTH, term)]


class MC(LPF):
    @staticmethod
    def lines(model: dict) -> list[Line]:
        """The rise of the loss against the length of the direction."""
        term, lengths, rise = _along(model)
        return [Line("random directions", lengths, rise, LENGTH, f"rise of {term}", "log")]


def _along(model: dict) -> tuple[str, list[float], list[float]]:
    """The headline; of each size, the mean length of the moves, and the mean rise."""
    term, curve = next(iter(model["at_w"])), model["curve"]
    lengths = [math.fsum(p["distances"]) / len(p["distances"]) for p in curve]
    return term, lengths, [float(rises(model, p, term).mean(dim=0)[0]) for p in curve]
