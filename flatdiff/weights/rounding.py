"""What a network in reduced precision sees of a move of its weights: round(w') - round(w).

Weights and their moves are fp32; autocast, or a tensor core, rounds a layer's weights where it uses
them. A move that is small beside that rounding reaches the network as another one: most weights
stay where they were, some jump by a whole unit in the last place, so that it is longer than was
meant and points elsewhere. Knows tensors only.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CASTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TF32_DROPS = 13  # of the 23 bits of fp32's fraction


def rounded(x: Tensor, arithmetic: str) -> Tensor:
    """x to the nearest number of "fp32", "tf32", "bf16" or "fp16", ties to even; in x's dtype."""
    if arithmetic != "tf32":
        return x.to(CASTS[arithmetic]).to(x.dtype)
    bits = x.float().view(torch.int32)
    half = (1 << (TF32_DROPS - 1)) - 1 + ((bits >> TF32_DROPS) & 1)
    return (((bits + half) >> TF32_DROPS) << TF32_DROPS).view(torch.float32).to(x.dtype)


@torch.no_grad()
def seen(
    start: Sequence[Tensor], moved: Sequence[Tensor], used: Sequence[str], scale: float = 1.0
) -> tuple[float, float]:
    """(length, cosine) of the move that a network sees, against the one that was meant.

    Meant is scale * (moved - start), all weights one vector; the length is in units of its length.
    Both are nan where that is 0 or not finite. used: each weight's arithmetic, see `rounded`.
    """
    total = 0.0
    for w, w_moved, arithmetic in zip(start, moved, used, strict=True):
        meant = (w_moved - w) * scale
        got = rounded(w + meant, arithmetic) - rounded(w, arithmetic)
        products = meant * meant, got * got, meant * got
        total = total + torch.stack([p.sum(dtype=torch.float64) for p in products])
    meant, got, both = total.tolist()
    if not 0 < meant < math.inf or not got < math.inf:
        return math.nan, math.nan
    return math.sqrt(got / meant), both / math.sqrt(got * meant) if got else 0.0


def enough(
    start: Sequence[Tensor], moved: Sequence[Tensor], used: Sequence[str], cosine: float
) -> float:
    """The factor, 1 or more, that a move must be scaled by, so that it is seen at this cosine.

    To 5 %, by bisection; inf where a move 2^40 times as long would not do.
    """
    low = high = 1.0
    while seen(start, moved, used, high)[1] < cosine:
        low, high = high, 2 * high
        if high > 2.0**40:
            return math.inf
    while high > 1.05 * low:
        middle = math.sqrt(low * high)
        falls_short = seen(start, moved, used, middle)[1] < cosine
        low, high = (middle, high) if falls_short else (low, middle)
    return high
