"""Perturbed networks and SAM in code that is not ours: `flatdiff.perturbed`, `flatdiff.quantize`,
`flatdiff.sam_gradient`.

    with flatdiff.perturbed(net, flatdiff.quantize(bits=4)) as distance: ...
    loss = flatdiff.sam_gradient(closure, net.parameters(), rho=0.1)
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..exchange.families import inside
from ..quantization.grid import Quantizer
from ..quantization.rounded import Rounded
from ..weights import perturb, sam
from . import checks
from .quantizers import ends_of

Result = TypeVar("Result")


@contextlib.contextmanager
def perturbed(
    net: nn.Module, perturbation: perturb.Perturbation, weights: checks.Chosen = None
) -> Iterator[float]:
    """Hold a network at w' = perturbation(w) inside the block; then its weights are w, to the bit.

    Yields the distance ||w' - w||, l2 over all weights that are moved. perturbation: of `quantize`,
    `gaussian`, `sphere`, `along`, `replace`, or any function that moves a list of tensors in place.
    weights: which of those that require grad, as in `subject`; of `quantize`, those of its layers.
    """
    if not callable(perturbation):
        raise ValueError(f"got {perturbation!r}; expected a perturbation, as flatdiff.quantize(4)")
    net = inside(net)
    of_its_own = getattr(perturbation, "weights_of", None)
    moved = of_its_own(net) if of_its_own else checks.weights(net, weights)
    if of_its_own and weights is not None:
        raise ValueError("quantize says by skip= which layers it leaves out; it takes no weights=")
    with perturb.at(moved, perturbation) as distance:
        yield float(distance)


def quantize(
    bits: int = 8,
    granularity: str = "tensor",
    symmetric: bool = False,
    ends: str = "minmax",
    skip: Sequence[str] = (),
    group: int = 32,
) -> Rounded:
    """Return the perturbation that rounds weights of convolutions and linear layers to `bits`.

    granularity: what shares a grid, "tensor", "channel" or "group", `group` weights of a channel.
    symmetric: the grid reaches as far below zero as above. ends: where it ends, "minmax" or "mse".
    skip: patterns of layers' names that stay as they are. bits: 2 to 8. They are
    `image_sample_quant.py`'s.
    """
    return Rounded(Quantizer(bits, granularity, symmetric, ends_of(ends), group), skip)


def sam_gradient(
    closure: Callable[[], Result],
    weights: Iterable[Tensor],
    rho: float = 0.05,
    adaptive: bool = False,
) -> Result:
    """Leave SAM's gradient, that at w + rho g / ||g||, in `.grad`; return what the closure returned
    first, at w (Foret et al. 2021, equation 2). With `adaptive`, ASAM's (Kwon et al. 2021).

    closure: forward and backward pass of one batch, and nothing else; gradients are to be None or
    zero before. It runs twice, and PyTorch's random numbers (noise, timesteps, dropout) are the
    same both times. Under autocast, with a loss scale, and on ranks of DDP it is exact: weights and
    the climb are fp32, the gradient is the mean over ranks. rho 0 is one plain pass. weights: fp32.
    """
    weights = list(weights)
    devices = sorted({w.device.index for w in weights if w.device.type == "cuda"})
    before = torch.get_rng_state(), [torch.cuda.get_rng_state(i) for i in devices]
    calls = 0

    def again() -> Result:
        nonlocal calls
        if calls:
            torch.set_rng_state(before[0])
            for i, state in zip(devices, before[1]):
                torch.cuda.set_rng_state(state, i)
        calls += 1
        return closure()

    return sam.sam_gradient(again, weights, rho, adaptive)
