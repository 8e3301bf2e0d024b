"""An orthonormal basis of long vectors, of which each rank keeps its share of every vector.

A vector is cut into BLOCKS, whatever the number of ranks, and each rank has some of them. A dot
product is the sum of those of the blocks, float64, in their order: on any number of ranks the same,
to the bit. Knows ranks as two integers and a function that sums over them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BLOCKS = 256


class Place(NamedTuple):
    """Where a basis is: of rank `shard` among `num_shards`, `sum` adds a tensor up over them."""

    shard: int = 0
    num_shards: int = 1
    sum: Callable[[Tensor], Tensor] = lambda tensor: tensor
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float64


ALONE = Place()


class Basis:
    """Up to `most` vectors [size], kept in the place's dtype; a share of a vector is float64.

    A share is [blocks, numbers of a block], zeros behind the end of the vector.
    """

    def __init__(self, most: int, size: int, place: Place):
        self.size, self.place, self.count = size, place, 0
        low, high = (BLOCKS * (place.shard + k) // place.num_shards for k in (0, 1))
        self.blocks, length = slice(low, high), -(-size // BLOCKS)
        self.mine = slice(*(min(size, length * block) for block in (low, high)))
        self.kept = torch.empty(most, high - low, length, dtype=place.dtype, device=place.device)

    @property
    def vectors(self) -> Tensor:
        """This rank's shares of those that there are [count, ...]."""
        return self.kept[: self.count]

    def add(self, share: Tensor) -> Tensor:
        """Take up another vector by its share; returns all of it [size], in the place's dtype."""
        self.kept[self.count] = share
        self.count += 1
        return self.whole(self.kept[self.count - 1])

    def share(self, vector: Tensor) -> Tensor:
        """Cut this rank's share out of a vector [size]."""
        share = self.kept.new_zeros(self.kept.shape[1:], dtype=torch.float64)
        mine = vector[self.mine]
        share.view(-1)[: len(mine)] = mine
        return share

    def whole(self, share: Tensor) -> Tensor:
        """Return the vector [size], in the place's dtype, that is made of the ranks' shares."""
        vector = self.kept.new_zeros(self.size)
        mine = vector[self.mine]
        mine.copy_(share.flatten()[: len(mine)])
        return self.place.sum(vector)

    def dots(self, share: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Multiply a vector with those of the basis, or other shares [count, ...]: float64."""
        vectors = self.vectors if vectors is None else vectors
        parts = share.new_zeros(BLOCKS, len(vectors))
        for k, vector in enumerate(vectors):
            parts[self.blocks, k] = (share * vector).sum(dim=1)
        return self.place.sum(parts).sum(0).cpu()

    def norm(self, share: Tensor) -> Tensor:
        """Return the length of the vector, 0-dim."""
        return self.dots(share, share[None])[0].sqrt()

    def combined(self, factors: Tensor) -> Tensor:
        """Add the vectors up, each times its factor [count]; the share of the sum."""
        total = self.kept.new_zeros(self.kept.shape[1:], dtype=torch.float64)
        for factor, vector in zip(factors.tolist(), self.vectors):
            total.add_(vector, alpha=factor)
        return total
