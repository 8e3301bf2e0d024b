"""Look at the network at w' = f(w), then return to w exactly.

A `Perturbation` moves a list of weights in place. `at` applies one for the length of a `with`
block, and is the only code that moves weights for a while. SAM's climb, the Gaussian ball of LPF
flatness, directions of a loss surface, quantization, and trying out an average are all this one
act, so all of them are read on one axis: the distance ||w' - w||.
It knows tensors only: no network, no loss, no ranks.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..kernels.noise import add_
from ..rng import PERTURB, seed_of

Perturbation = Callable[[list[Tensor]], None]
NUMBERS = "philox"  # which ones `noise` gives: keys of kept results name them


@contextlib.contextmanager
def at(
    weights: Sequence[Tensor],
    perturbation: Perturbation,
    spare: Sequence[Tensor] | None = None,
    measure: bool = True,
) -> Iterator[Tensor | None]:
    """Hold `weights` at w' = perturbation(w) inside the block; afterwards they are w, bit for bit.

    Yields the distance ||w' - w||, l2 over all weights, as a 0-dim tensor on their device (nothing
    waits for it). The weights come back by copy, also when the block or the perturbation itself
    raises, Ctrl-C included. Gradients flow in the block as outside of it.

    weights: fp32 (or fp64); half precision raises ValueError. spare: tensors like them to keep w
    in, for many perturbations; None makes new ones. measure: False yields None for the distance.
    """
    weights = list(weights)
    for w in weights:
        if w.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"weights to be perturbed must be fp32, got {w.dtype}: a small step (rho 0.05 over"
                " 50 million weights is 7e-6 a weight) would be rounded away. Keep fp32 weights"
                " and run the network under autocast."
            )
    with torch.no_grad():
        saved = [torch.empty_like(w) for w in weights] if spare is None else list(spare)
        torch._foreach_copy_(saved, weights)
    try:
        with torch.no_grad():
            perturbation(weights)
            moved = distance(weights, saved) if measure else None
        torch.clear_autocast_cache()  # inside autocast, cast copies of w would be used for w'
        yield moved
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, saved)
        torch.clear_autocast_cache()


def distance(weights: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """||weights - others||, l2 over all of them, as a 0-dim tensor.

    In fp32: on the CPU, a tensor of a million weights is summed with a relative error near 1e-5.
    """
    group = 16  # few calls for a GPU, and differences that stay in the cache of a CPU
    norms = []
    for i in range(0, len(weights), group):
        differences = torch._foreach_sub(weights[i : i + group], others[i : i + group])
        norms.extend(torch._foreach_norm(differences))
    return torch.linalg.vector_norm(torch.stack(norms))


def replace(tensors: Sequence[Tensor]) -> Perturbation:
    """w' = tensors: an average to try out, quantized weights, another checkpoint."""
    tensors = list(tensors)

    def move(weights: list[Tensor]) -> None:
        if [w.shape for w in weights] != [t.shape for t in tensors]:
            raise ValueError(
                f"replace has {len(tensors)} tensors for {len(weights)} weights, or of other "
                "shapes; expected one for each, in their order"
            )
        torch._foreach_copy_(weights, tensors)

    return move


def along(directions: Sequence[Tensor], scale: float) -> Perturbation:
    """w' = w + scale * directions."""
    return lambda weights: torch._foreach_add_(weights, list(directions), alpha=scale)


def gaussian(sigma: float, seed: int = 0, draw: int = 0, filterwise: bool = False) -> Perturbation:
    """w' = w + sigma z with z standard normal: one draw of LPF flatness (Bisla et al. 2022).

    `sigma` is the standard deviation of a weight's noise; with `filterwise` it is the length of a
    filter's noise over the length of the filter. -sigma gives the mirrored draw. See `noise`.
    """

    def move(weights: list[Tensor]) -> None:
        if filterwise:
            for w, z in zip(weights, noise(weights, seed, draw, filterwise)):
                w.add_(z, alpha=sigma)
            return
        key = seed_of(seed, PERTURB, draw)
        for i, w in enumerate(weights):
            add_(w, sigma, key, stream=i)

    return move


def sphere(radius: float, seed: int = 0, draw: int = 0, filterwise: bool = False) -> Perturbation:
    """w' = w + radius z / ||z||: a random direction of given length (SWAD, Cha et al. 2021).

    The length is l2 over all weights together, with `filterwise` too. The noise is made twice,
    once to measure it and once to add it, since keeping it would cost a copy of the weights.
    """

    def move(weights: list[Tensor]) -> None:
        of_weights = noise(weights, seed, draw, filterwise)
        squares = torch.stack([z.square().sum() for z in of_weights])
        gaussian(radius / math.sqrt(squares.double().sum().item()), seed, draw, filterwise)(weights)

    return move


def noise(
    weights: Sequence[Tensor], seed: int, draw: int, filterwise: bool = False
) -> Iterator[Tensor]:
    """Standard normal noise for each weight in turn, fp32, shaped and placed as it is.

    Element e (in row-major order of the shape) of weight i is a function of (seed, draw, i, e)
    alone, the same to the bit for all memory layouts, devices and numbers of threads: a counter in
    a cipher (Philox), no state. Its largest absolute value is 6.7.

    With `filterwise`, a filter's noise is rescaled to the length of that filter (Li et al. 2018,
    section 4). A filter is a slice of the first dimension; a weight of one dimension (bias,
    normalization gain) is a single filter. Filters of zeros get no noise.
    """
    key = seed_of(seed, PERTURB, draw)
    for i, w in enumerate(weights):
        z = add_(torch.zeros(w.shape, dtype=torch.float32, device=w.device), 1.0, key, stream=i)
        yield z * (filter_norms(w) / filter_norms(z)) if filterwise else z


def filter_norms(w: Tensor) -> Tensor:
    """Norms of the slices w[k], shaped [K, 1, ..., 1]; of the whole if w has one dimension."""
    dims = tuple(range(1, w.ndim)) or None
    return torch.linalg.vector_norm(w.detach(), dim=dims, keepdim=True)
