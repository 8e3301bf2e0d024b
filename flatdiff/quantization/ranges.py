"""Where the grid of a quantizer ends: functions (x, quantizer) -> (lowest, highest).

x: fp32. The ends have one value for each grid, and broadcast to x; `quantizer.dims` are the
dimensions that share a grid. A new one is a function here or in a file of its own, and a line in
`flags.choices`; its knobs are its keyword arguments that have a default.
"""

import torch
from torch import Tensor

FACTORS = [percent / 100 for percent in range(100, 19, -1)]


def minmax(x: Tensor, quantizer) -> tuple[Tensor, Tensor]:
    """The extreme values, so that no value moves by more than half a step."""
    dims = quantizer.dims(x)
    return x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)


def mse(x: Tensor, quantizer) -> tuple[Tensor, Tensor]:
    """Both extremes times that factor of 1, 0.99, ... 0.2 which has the least squared error."""
    lowest, highest = minmax(x, quantizer)
    best = torch.ones_like(lowest)
    least = torch.full_like(lowest, torch.inf)
    for factor in FACTORS:
        scale, zero = quantizer.grid(lowest * factor, highest * factor)
        steps_off = quantizer.codes(x, scale, zero).sub_(zero).sub_(x * (1 / scale))
        error = steps_off.mul_(factor).square_().sum(quantizer.dims(x), keepdim=True)
        best = torch.where(error < least, factor, best)
        least = torch.minimum(error, least)
    return lowest * best, highest * best
