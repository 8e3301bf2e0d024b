"""Second derivatives by differences along a vector, for which first ones and fast kernels will do.

    H v     = |v| (g(w + d) - g(w - d)) / 2h                d = h v / |v|
    v . H v = |v|^2 (16 s(h) - s(2h)) / 12 h^2              s(h) = L(w + d) - 2 L(w) + L(w - d)

All is in the length h. What rounding adds falls with h, what a difference leaves out rises with it,
and in every direction the two meet where the loss has risen by about the same share of itself.
Networks that have no second derivative, or no fast one, have these.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import perturb

Spare = Sequence[Tensor] | None


def of_gradients(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], step: Tensor, spare: Spare = None
) -> Tensor:
    """g(w + step) - g(w - step) [n] of the scalar loss(), in the weights' dtype, on their device.

    step [n] is flat; the weights are moved, and come back, by `perturb.at`, which has `spare`.
    """
    found = []
    for sign in (1, -1):
        with moved(weights, step, sign, spare):
            gradient = torch.autograd.grad(loss(), weights, materialize_grads=True)
        found.append(torch.cat([g.reshape(-1) for g in gradient]))
    return found[0].sub_(found[1])


def product(
    change: Callable[[Tensor], Tensor], loss: float, weights: Sequence[Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return v -> H v, where change(step) is g(w + step) - g(w - step) [n], and loss is L(w) > 0.

    A step moves the loss, by its curvature, by eps^(2/3) / 4 of itself, in the direction of most
    curvature met so far: by more than four times that it is taken again. So the first products are
    of several changes, and those that follow of one. A v with little curvature has the errors of
    the others, which count beside the largest eigenvalue.
    """
    eps = torch.finfo(weights[0].dtype).eps
    step, most = eps ** (1 / 3) * _length(weights), eps ** (2 / 3) / 4 * loss

    def of(vector: Tensor) -> Tensor:
        nonlocal step
        length = float(vector.norm()) or 1.0
        while True:
            found = change(vector * (step / length)) * (length / (2 * step))
            rise = step**2 * float(found.norm()) / length / 2 / most
            step /= math.sqrt(max(1.0, rise))
            if not rise > 4:  # nor nan
                return found

    return of


def curvatures(
    losses: Callable[[], Tensor], weights: Sequence[Tensor], step: Tensor, spare: Spare = None
) -> Tensor:
    """step . H_i step, float64 [N], H_i the Hessian of each of losses() [N], up to the sixth order.

    It is what `hessian.curvatures` says of the step, of five times the losses.
    """
    at_w, once, twice = (_sums(losses, weights, step, scale, spare) for scale in (0, 1, 2))
    return (16 * once - twice - 15 * at_w) / 12


def step_along(
    losses: Callable[[], Tensor], weights: Sequence[Tensor], vector: Tensor, spare: Spare = None
) -> float:
    """Return the factor with which a vector is a step for `curvatures`: losses() [N] rise there by
    eps^(1/3) / 20 of themselves, or half or twice that, in the mean of their sizes."""
    eps = torch.finfo(weights[0].dtype).eps
    longest = eps ** (1 / 4) * _length(weights) / (float(vector.norm()) or 1.0)
    at_w, factor = _sums(losses, weights, vector, 0, spare), longest
    for _ in range(10):
        rises = _sums(losses, weights, vector, factor, spare) - at_w
        share = float(rises.abs().mean() / at_w.abs().mean()) / (eps ** (1 / 3) / 20)
        if 1 / 2 <= share <= 2 or (share < 1 and factor == longest) or not math.isfinite(share):
            break
        factor = min(longest, factor / math.sqrt(max(share, 1e-4)))
    return factor


def _sums(losses, weights, step: Tensor, scale: float, spare: Spare) -> Tensor:
    """L(w + scale step) + L(w - scale step), float64."""
    with torch.no_grad():
        if not scale:
            return 2 * losses().double()
        found = []
        for sign in (scale, -scale):
            with moved(weights, step, sign, spare):
                found.append(losses().double())
    return found[0] + found[1]


def moved(weights, step: Tensor, scale: float, spare: Spare):
    parts = step.to(weights[0]).split([w.numel() for w in weights])
    directions = [part.view(w.shape) for part, w in zip(parts, weights)]
    return perturb.at(weights, perturb.along(directions, scale), spare, measure=False)


def _length(weights: Sequence[Tensor]) -> float:
    """The weights' length; of zeros, which have none to go by, 1."""
    norms = torch._foreach_norm([w.detach() for w in weights])
    return float(torch.linalg.vector_norm(torch.stack(norms))) or 1.0
