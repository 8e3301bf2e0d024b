"""The units in which weights are moved: of what length is a move that is told as 1.

    absolute    d = z
    filter      d_f = ||w_f|| z_f / ||z_f||,  f a filter; of what is no noise, as the ascent of a
                sharpness, d_f = ||w_f|| z_f                               (Li et al. 2018)
    weight      d = |w| z,  each weight its own unit     (Kwon et al. 2021, Andriushchenko et al.
                2023, section 2: c = |w|)
    canonical   d = J z,  J from the network's canonical form to its weights (`nets.symmetries`)

Moves in units of a weight are the same, to the loss, for networks that differ by factors; those of
the canonical form also where channels were mixed or have changed places.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..exchange.families import inside
from ..nets import symmetries
from ..weights import perturb

SIGMA = {
    "absolute": "sigma, standard deviation of the weight noise",
    "filter": "sigma, length of each filter's noise over that of the filter",
    "weight": "sigma, standard deviation of each weight's noise over its size",
    "canonical": "sigma, standard deviation of the noise of the canonical form",
}
RADIUS = {
    "absolute": "radius, length of the direction (l2 over all weights)",
    "filter": "radius, length of the direction (l2 over all weights)",
    "weight": "radius, length of the direction (l2, each weight's part over its size)",
    "canonical": "radius, length of the direction (l2 in the canonical form)",
}
Map = Callable[[list[Tensor]], None]  # of moves, one shaped as each weight, in place


def noise(kind: Callable, subject, scale: str) -> Callable[..., perturb.Perturbation]:
    """Return noise of a kind, `perturb.gaussian` or `perturb.sphere`, in the units: a function of
    (size, seed, draw, filterwise). The size of a sphere is its radius in these units, by filter
    still the l2 over all weights."""
    if scale in ("absolute", "filter"):
        return kind
    to_weights, _ = maps(subject, scale)

    def of(size: float, seed: int, draw: int, filterwise: bool = False) -> perturb.Perturbation:
        def move(weights: list[Tensor]) -> None:
            moves = [torch.zeros_like(w) for w in weights]
            kind(size, seed, draw)(moves)
            to_weights(moves)
            torch._foreach_add_(weights, moves)

        return move

    return of


def maps(subject, scale: str) -> tuple[Map, Map]:
    """Return J and its transpose, for the subject's weights as they stand: moves in the units to
    moves of weights, and gradients by weights to gradients in the units. ValueError in canonical
    units for a network that has no symmetry known."""
    weights = subject.weights
    if scale == "canonical":
        linear = symmetries.balanced(inside(subject.model))
        back = linear.transposed
        return (lambda x: linear.apply_(x, weights)), (lambda x: back.apply_(x, weights))
    units = {
        "absolute": lambda w: torch.ones((), dtype=w.dtype, device=w.device),
        "filter": perturb.filter_norms,
        "weight": torch.abs,
    }[scale]
    with torch.no_grad():
        factors = [units(w.detach()).clone() for w in weights]
    scaled = torch.no_grad()(lambda x: [v.mul_(f) for v, f in zip(x, factors)])
    return scaled, scaled


@contextlib.contextmanager
def held(weights: Sequence[Tensor], linear: symmetries.Linear) -> Iterator[None]:
    """Hold the weights, and what group norms add to variances, where a linear map leads."""
    before = {norm: norm.eps for norm in linear.eps}
    try:
        for norm, factor in linear.eps.items():
            norm.eps = before[norm] * factor
        with perturb.at(weights, lambda w: linear.apply_(w, weights), measure=False):
            yield
    finally:
        for norm, eps in before.items():
            norm.eps = eps
