"""Sharpness-aware minimization: the gradient at the ridge, left in `.grad`; the weights stay.

    SAM  (Foret et al. 2021, eq. 2):  g(w + eps),  eps = rho g / ||g||
    ASAM (Kwon et al. 2021, Alg. 1):  g(w + eps),  eps = rho w^2 g / || |w| g ||
    MSAM (Becker et al. 2024, Alg. 1):  g(w + eps),  eps = -rho m / ||m||,  m the momentum
    LE-SAM (arXiv 2605.10183):  rho = rise / ||g||, which a rise of the loss gives, not a length

It knows a list of weights and a closure: no batch, no loss, no ranks.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .perturb import Perturbation, along, at

Result = TypeVar("Result")
Look = Callable[[list[Tensor], list[Tensor]], None]
Radius = Callable[[Tensor, list[Tensor]], Tensor]  # of the gradient's norm and the weights


def sam_gradient(
    closure: Callable[[], Result],
    weights: Sequence[Tensor],
    rho: float,
    adaptive: bool = False,
    ascent: Callable[[], Result] | None = None,
    look: Look | None = None,
) -> Result:
    """Leave the gradient at w + eps in `.grad`; return what the first pass returned.

    rho 0 is one plain gradient and one pass. Weights that the first pass gives no gradient are not
    moved. eps does not change when all gradients are scaled, so a loss scale does no harm; where
    the first gradient overflows, the second one is NaN, for the caller to skip the step as usual.
    The weights come back bit for bit, also when a closure raises. Nothing waits for the device.

    closure: runs forward and backward on the same draws each time, and only adds to `.grad`.
    weights: fp32; those with a gradient are one vector with one norm. rho: the ball's radius, l2
    over that vector (ASAM, with `adaptive`: in units of |w|). ascent: the closure of the first
    pass, as one that does not synchronize ranks (m-sharpness); None takes `closure`. look: called
    at the ridge with w and with the weights, which are at w + eps.
    """
    _check(rho)
    if rho == 0:
        return closure()
    return ridge_gradient(closure, weights, lambda g, _: climb(g, rho, adaptive), ascent, look)


def ridge_gradient(
    closure: Callable[[], Result],
    weights: Sequence[Tensor],
    climb_of: Callable[[list[Tensor], list[Tensor]], Perturbation],
    ascent: Callable[[], Result] | None = None,
    look: Look | None = None,
) -> Result:
    """Leave in `.grad` the gradient at the perturbation that `climb_of` makes of the first one.

    climb_of: of the first gradients, which it may use up, and of the weights that have one. All
    else is as in `sam_gradient`.
    """
    result = (closure if ascent is None else ascent)()
    moving = [w for w in weights if w.grad is not None]
    if not moving:
        raise ValueError(
            "the closure left no gradient in any of the weights, so there is nowhere to climb: it "
            "is to run forward and backward on a network that has these weights"
        )
    grads = [w.grad for w in moving]
    for w in moving:
        w.grad = None
    with ridge(moving, climb_of(grads, moving), look):
        closure()
    return result


def msam_gradient(
    closure: Callable[[], Result],
    weights: Sequence[Tensor],
    momenta: list[Tensor],
    rho: float,
    look: Look | None = None,
) -> Result:
    """Leave the gradient at w - rho m / ||m|| in `.grad`; return what the pass returned.

    One pass: m is known before it. In the sign of the paper the weights go where the momentum is
    about to carry them anyway, rho ahead. Without momenta, as before the first step, nothing moves.
    momenta: sums of gradients (Adam's exp_avg), one for each weight. look: see `sam_gradient`.
    """
    _check(rho)
    if not momenta:
        return closure()
    with ridge(list(weights), climb(list(torch._foreach_neg(momenta)), rho), look):
        return closure()


def _check(rho: float) -> None:
    if not 0 <= rho < math.inf:
        raise ValueError(f"rho {rho}: the radius of SAM's ball must be 0 (off) or larger, finite")


@contextlib.contextmanager
def ridge(weights: list[Tensor], move: Perturbation, look: Look | None) -> Iterator[None]:
    """Hold the weights at w + eps inside the block."""
    saved = [torch.empty_like(w) for w in weights]
    with at(weights, move, saved, measure=False):
        if look:
            look(saved, weights)
        yield


def climb(grads: list[Tensor], rho: float | Radius, adaptive: bool = False) -> Perturbation:
    """w' = w + eps. Uses `grads` up: overwrites them and empties the list, to free their memory."""

    def move(weights: list[Tensor]) -> None:
        if adaptive:
            torch._foreach_mul_(grads, weights)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        radius = rho(norm, weights) if callable(rho) else rho
        # A norm of 0 climbs nowhere. One of inf or NaN goes on into every weight and so into every
        # gradient: rho / inf would be 0, and an overflow would pass for a plain gradient.
        scale = torch.where(norm.isfinite() & (norm > 0), radius / norm, norm)
        if adaptive:
            torch._foreach_mul_(grads, weights)
        if scale.is_cpu:  # where a number is at hand: one pass less
            along(grads, scale.item())(weights)
        else:
            torch._foreach_mul_(grads, scale)
            along(grads, 1.0)(weights)
        grads.clear()

    return move


def radius_of(rise: float, cap: float, adaptive: bool = False, scale: float = 1.0) -> Radius:
    """rho = rise / ||g|| (LE-SAM), by which the loss rises by `rise` to first order: rho ||g||.

    With `adaptive`, ||g|| is || |w| g ||. Where the gradient vanishes rho would have no end: it is
    at most `cap` times ||w||, or of ASAM, whose ball is in units of |w|, cap sqrt(number of
    weights). scale: the loss scale that is in g. ValueError unless rise and cap are above 0.
    """
    for name, value in (("rise", rise), ("cap", cap)):
        if not 0 < value < math.inf:
            told = {"rise": "of the loss, to first order", "cap": "of ||w||, the longest climb"}
            raise ValueError(f"{name} {value}: the {name} {told[name]}, must be above 0, finite")

    def radius(norm: Tensor, weights: list[Tensor]) -> Tensor:
        if adaptive:
            size = norm.new_tensor(math.sqrt(sum(w.numel() for w in weights)))
        else:
            size = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(weights)))
        return torch.minimum(rise * scale / norm, cap * size)

    return radius
