"""The delete-a-group jackknife over images: what a distance would scatter by with other samples.

A set is shuffled by a seed into 10 groups. Two sets of one size have the same groups, so that the
difference of their distances has an error of its own: where their images are paired, as those of
one noise are, what they share cancels. The reference is held fixed. A distance that is quadratic
near 0, as all are, gets an error there that is too large, never too small (Efron & Stein 1981).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

NUM_GROUPS = 10
SMALLEST = 2 * NUM_GROUPS  # images, below which there is no error


def groups(number: int, seed: int = 0, num_groups: int = NUM_GROUPS) -> tuple[Tensor, ...]:
    """The indices [number], shuffled, in groups that differ in size by at most one."""
    order = np.random.default_rng(seed).permutation(number)
    return torch.from_numpy(order).tensor_split(num_groups)


def error(left_out: Sequence[float]) -> float:
    """The standard error, from the values without one group each; nan without any."""
    if not len(left_out):
        return float("nan")
    return float(np.sqrt((len(left_out) - 1) * np.var(left_out)))


def check_widths(reference: Tensor, *others: Tensor) -> None:
    """ValueError unless all sets, [N, D] each, have as many features an image as the first."""
    if wrong := {x.shape[1] for x in others} - {reference.shape[1]}:
        raise ValueError(
            f"the reference has {reference.shape[1]} features an image, the samples "
            f"{min(wrong)}: measure both by the same network"
        )
