"""Whether all ranks still train one network: each has its own copy, and none sees another's.

They get the same gradients and take the same steps, so their weights are the same bits, unless
memory or a card is broken, or something draws other random numbers on one of them.
"""

from collections.abc import Iterable

import torch

from . import dist_util

TOLERANCE = 1e-9  # of a norm in float64, which other numbers of threads add up in another order


@torch.no_grad()
def check(weights: Iterable[torch.Tensor], when: str) -> None:
    """Raise ValueError, on all ranks, which come here together, where their weights have different
    norms (l2, all weights as one vector); it says `when`."""
    if dist_util.world_size() == 1:
        return
    own = sum(w.double().square().sum() for w in weights).sqrt()
    norms = dist_util.all_gather_cat(own[None])
    if torch.allclose(norms, norms[0], rtol=TOLERANCE, atol=0, equal_nan=True):
        return
    told = ", ".join(f"{norm:.12g} on rank {rank}" for rank, norm in enumerate(norms.tolist()))
    raise ValueError(
        f"the ranks train different networks {when}: the norm of the weights is {told}. Nothing of "
        "this step was saved: go on from the last checkpoint (--resume auto), and if it happens "
        "again, look for a broken GPU or memory"
    )
