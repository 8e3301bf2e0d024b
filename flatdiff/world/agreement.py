"""What ranks have to agree on: that they still train one network, and after which step they end.

Each rank has its own copy of the network, and none sees another's. They get the same gradients and
take the same steps, so their weights are the same bits, unless memory or a card is broken, or
something draws other random numbers on one of them.
"""

import time
from collections.abc import Iterable

import torch

from . import dist_util, stopping

TOLERANCE = 1e-9  # of a norm in float64, which other numbers of threads add up in another order
PAUSE = 1.0  # seconds in which ranks do not ask each other whether they end


class Ending:
    """Called by all ranks after each step: whether they end after this one, on all of them alike.

    They tell each other about once a second, between as many steps as take so long; a world of one
    only looks whether it was asked to.
    """

    def __init__(self):
        self.steps = self.left = 1
        self.since = time.monotonic()

    def __call__(self) -> bool:
        if dist_util.world_size() == 1:
            return bool(stopping.asked())
        self.left -= 1
        if self.left:
            return False
        now = time.monotonic()
        seconds, self.since = (now - self.since) / self.steps, now
        own = torch.tensor([float(bool(stopping.asked())), seconds], dtype=torch.float64)
        asked, seconds = dist_util.all_gather_cat(own[None]).mean(dim=0).tolist()
        self.steps = self.left = max(1, int(PAUSE / max(seconds, 1e-6)))
        return asked > 0


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
