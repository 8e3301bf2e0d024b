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
    """Up to `most` vectors [size], kept in the place's dtype; a share of a vector is float64."""

    def __init__(self, most: int, size: int, place: Place):
        self.size, self.place, self.count = size, place, 0
        low, high = (BLOCKS * (place.shard + k) // place.num_shards for k in (0, 1))
        edges = [size * i // BLOCKS for i in range(BLOCKS + 1)]
        self.mine, first = slice(edges[low], edges[high]), edges[low]
        self.blocks = {i: slice(edges[i] - first, edges[i + 1] - first) for i in range(low, high)}
        length = self.mine.stop - self.mine.start
        self.kept = torch.empty(most, length, dtype=place.dtype, device=place.device)

    @property
    def vectors(self) -> Tensor:
        """This rank's share of those that there are [count, length]."""
        return self.kept[: self.count]

    def add(self, share: Tensor) -> Tensor:
        """Take up another vector by its share; returns all of it [size], in the place's dtype."""
        self.kept[self.count] = share
        self.count += 1
        return self.whole(self.kept[self.count - 1])

    def share(self, vector: Tensor) -> Tensor:
        """Cut this rank's share out of a vector [size]."""
        return vector[self.mine].to(self.place.device, torch.float64)

    def whole(self, share: Tensor) -> Tensor:
        """Return the vector [size], in the place's dtype, that is made of the ranks' shares."""
        vector = self.kept.new_zeros(self.size)
        vector[self.mine] = share
        return self.place.sum(vector)

    def dots(self, share: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Multiply a vector with those of the basis, or others [count, length]: float64 [count]."""
        vectors = self.vectors if vectors is None else vectors
        parts = share.new_zeros(BLOCKS, len(vectors))
        for i, block in self.blocks.items():
            parts[i] = vectors[:, block].double() @ share[block]
        return self.place.sum(parts).sum(0).cpu()

    def norm(self, share: Tensor) -> Tensor:
        """Return the length of the vector, 0-dim."""
        return self.dots(share, share[None])[0].sqrt()

    def combined(self, factors: Tensor) -> Tensor:
        """Add the vectors up, each times its factor [count]; the share of the sum."""
        total = self.kept.new_empty(self.kept.shape[1], dtype=torch.float64)
        for block in self.blocks.values():
            total[block] = factors.to(total.device) @ self.vectors[:, block].double()
        return total
