"""How much the loss rises when the weights are moved at random, and how well that is known.

    LPF (Bisla et al. 2022):      E L(w + d),           d ~ N(0, sigma^2 I)
    MC  (SWAD, Cha et al. 2021): E L(w + d) - L(w),    d uniform with ||d|| = radius

Draws come in mirrored pairs, d and -d. Both are as likely, so no expectation changes; and the
odd terms of the loss in d, the gradient's above all, cancel within a pair, instead of hiding the
curvature at small d. Knows neither networks nor losses.
"""

import math

from torch import Tensor

from ..weights import perturb

KINDS = {"LPF": perturb.gaussian, "MC": perturb.sphere}


def perturbation(
    kind: str, size: float, seed: int, draw: int, filterwise: bool = False
) -> perturb.Perturbation:
    """w' = w + d for one draw of d; draws 2k and 2k + 1 are mirrored.

    :param kind: "LPF" or "MC".
    :param size: sigma for LPF, radius (l2 over all weights) for MC.
    :param filterwise: noise in proportion to the length of each filter (see `perturb.noise`).
    """
    pair, mirrored = divmod(draw, 2)
    return KINDS[kind](-size if mirrored else size, seed, pair, filterwise)


def pairs(values: Tensor) -> Tensor:
    """[2 P, ...] -> [P, ...]: the means of mirrored pairs, which are independent of each other."""
    if len(values) % 2 or len(values) < 4:
        raise ValueError(
            f"num_draws is {len(values)}; expected an even number, 4 or more: draws are mirrored "
            "pairs, and an error bar needs two of them"
        )
    return (values[0::2] + values[1::2]) / 2


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first dimension of independent values [K, ...], and its standard error."""
    return values.mean(dim=0), values.std(dim=0) / math.sqrt(len(values))
