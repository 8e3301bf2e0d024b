"""Products with the Gauss-Newton matrix of a squared error of what a network gives.

    G v = J' (A (J v)),  J = df/dw of outputs f,  A = d2L/df2, the same at every f

It is the Hessian without what the curvature of f in w adds, and has no negative eigenvalue. J v is
by double backward, u -> J'u being linear (as Townsend 2017 has it), or by differences of outputs.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..kernels.calls import twice_differentiable
from . import differences

Evaluate = Callable[[], tuple[Tensor, Tensor]]  # outputs f, and the scalar loss that is of them


def product(evaluate: Evaluate, weights: Sequence[Tensor], vector: Tensor) -> Tensor:
    """Return G v [n], differentiated exactly; ValueError if the loss is no squared error."""
    with twice_differentiable():
        f, loss = evaluate()
        u = torch.zeros_like(f, requires_grad=True)
        gradient = torch.autograd.grad(f, weights, u, create_graph=True, materialize_grads=True)
        parts = vector.split([w.numel() for w in weights])
        dot = sum((g * v.view(w.shape).to(w)).sum() for g, v, w in zip(gradient, parts, weights))
        (moved,) = torch.autograd.grad(dot, u, retain_graph=True)
        return _back(f, loss, moved, weights)


def change(
    evaluate: Evaluate, weights: Sequence[Tensor], step: Tensor, spare: Sequence | None = None
) -> Tensor:
    """Return J' A (f(w + step) - f(w - step)) [n], 2 G step but for the third order."""
    found = []
    for sign in (1, -1):
        with torch.no_grad(), differences.moved(weights, step, sign, spare):
            found.append(evaluate()[0])
    f, loss = evaluate()
    return _back(f, loss, found[0] - found[1], weights)


def _back(f: Tensor, loss: Tensor, moved: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """J' A moved."""
    (slope,) = torch.autograd.grad(loss, f, create_graph=True)
    curved = _curved(slope, f, moved)
    back = torch.autograd.grad(f, weights, curved.detach(), materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in back])


def _curved(slope: Tensor, f: Tensor, moved: Tensor) -> Tensor:
    """A moved; ValueError if A is another at another f, or not there."""
    if not slope.requires_grad:
        raise ValueError(REFUSED)
    (curved,) = torch.autograd.grad(
        (slope * moved).sum(), f, create_graph=True, retain_graph=True, materialize_grads=True
    )
    if curved.requires_grad:
        (third,) = torch.autograd.grad(
            curved.sum(), f, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        if bool(third.any()):
            raise ValueError(REFUSED)
    return curved


REFUSED = (
    "the loss is no squared error of what the network gives, of which matrix=gauss_newton is: "
    "measure matrix=hessian"
)
