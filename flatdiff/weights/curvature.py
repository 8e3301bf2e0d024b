"""How sharp the loss is along the step that an optimizer took, from at most six forward passes.

phi(c) is the loss at w + c d, d the whole step, of its rate lr. It falls at first, and is above
phi(0) again from c* on, which says how many times too large lr might be (arXiv 2601.16979):

    critical sharpness  2 / (c* lr);  of a quadratic it is d'Hd / (-g'd lr), what the preconditioned
    step sees, and descent is stable where it is below 2 / lr, which is where c* is above 1
    curvature           d'Hd / ||d||^2, by the second difference phi(0) - 2 phi(1) + phi(2)

Taken is the least c* > 0 that the search meets. It knows weights and a loss: no batch, no ranks.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .perturb import Perturbation, at, distance

FIRST = 1.0, 2.0  # steps that are always looked at
FASTEST = 8.0  # times that the search goes farther, or nearer, in one pass
BEYOND = 1.2  # times a guess, so that what it guesses lies before it
NEAR = 0.02  # of c*: two guesses that are one


def along_step(
    loss: Callable[[], float],
    weights: Sequence[Tensor],
    before: Sequence[Tensor],
    lr: float,
    most: int = 6,
) -> dict[str, float]:
    """Critical sharpness, its c* as "critical_step", and "update_curvature", of the step from
    `before` to `weights`, which stay. What is not to be had is left out: c* where the loss rises at
    once or not within the passes, all of it for a step of nothing.

    loss: of the weights as they are. most: calls of it.
    """
    length = float(distance(weights, before))
    if not 0 < length < math.inf or not lr > 0:
        return {}
    spare = [torch.empty_like(w) for w in weights]

    def phi(c: float) -> float:
        with at(weights, _between(before, c), spare, measure=False):
            return loss()

    crossing, second = search(phi, most)
    found = {"update_curvature": second / length**2}
    if crossing:
        found |= {"critical_step": crossing, "critical_sharpness": 2 / (crossing * lr)}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _between(before: Sequence[Tensor], c: float) -> Perturbation:
    """w' = before + c (w - before)."""
    return lambda w: torch._foreach_copy_(w, torch._foreach_lerp(list(before), w, c))


def search(phi: Callable[[float], float], most: int = 6) -> tuple[float | None, float]:
    """(c*, phi''(1)): the least root found of h(c) = (phi(c) - phi(0)) / c, or None, and the second
    difference. Of a quadratic h is a line, and both are exact."""
    start = phi(0.0)
    h = {c: (phi(c) - start) / c for c in FIRST}
    second, root = 2 * (h[FIRST[1]] - h[FIRST[0]]), _root(h)
    for _ in range(most - len(h) - 1):
        c = _next(h, root)
        h[c] = (phi(c) - start) / c
        last, root = root, _root(h)
        if root and last and abs(root - last) < NEAR * root:
            break
    return root, second


def _ends(h: dict[float, float]) -> tuple[list[float], list[float]]:
    """The points before the first that is above 0, and those from it on."""
    points = sorted(h)
    first = next((i for i, c in enumerate(points) if not h[c] <= 0), len(points))
    return points[:first], points[first:]


def _root(h: dict[float, float]) -> float | None:
    """Where the parabola through h on both sides of the root, and at the next point, is 0; the
    middle where h is not finite."""
    below, above = _ends(h)
    if not (below and above):
        return None
    a, b = below[-1], above[0]
    if not (h[a] and math.isfinite(h[b])):
        return (a + b) / 2 if h[a] else a
    others = sorted(h.keys() - {a, b}, key=lambda c: min(abs(c - a), abs(c - b)))
    slope = (h[b] - h[a]) / (b - a)
    known = [c for c in others if math.isfinite(h[c])]
    bend = sum(((h[c] - h[b]) / (c - b) - slope) / (c - a) for c in known[:1])
    at_a = slope - bend * (b - a)
    return a - 2 * h[a] / (at_a + math.sqrt(max(0.0, at_a**2 - 4 * bend * h[a])))


def _secant(h: dict[float, float], a: float, b: float) -> float:
    rise = h[b] - h[a]
    return a - h[a] * (b - a) / rise if rise else math.inf


def _next(h: dict[float, float], root: float | None) -> float:
    """Where to look: at the root, or within bounds beyond what two points guess it to be."""
    if root is not None and root not in h:
        return root
    below, above = _ends(h)
    if below and above:
        return (below[-1] + above[0]) / 2
    if below:
        last = below[-1]
        guess = BEYOND * _secant(h, *below[-2:])
        return min(guess, FASTEST * last) if guess > last else FASTEST * last
    first = above[0]
    guess = _secant(h, *above[:2]) / BEYOND
    return max(guess, first / FASTEST) if 0 < guess < first else first / FASTEST
