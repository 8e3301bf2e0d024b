"""A subject's headline along one direction d of some of its weights, example by example [N].

    s(a) = g(w + a d).d     slope, by one more differentiation
    d.Hd                    curvature at w, exact, by two
    L(w + a d) - L(w)       rise

Values are float64, on the CPU. Directions are lists of tensors, shaped as the weights.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..weights import hessian, perturb
from .subject import Subject, cut

Tensors = Sequence[Tensor]


def length(direction: Tensors) -> float:
    """Return the l2 norm over all tensors."""
    return float(torch.stack([_norm(d) for d in direction]).square().sum().sqrt())


def _norm(tensor: Tensor) -> Tensor:
    """The same of one, as a 0-dim tensor: nothing waits for it."""
    return tensor.detach().double().square().sum().sqrt()


def slope_and_curvature(subject: Subject, weights: Tensors, direction: Tensors) -> list[Tensor]:
    """Return g_i.d and d.H_i d, [N] each, at the weights as they stand."""
    found = [hessian.along(losses, weights, _flat(direction)) for losses in _headline(subject)]
    return [torch.cat(part).double().cpu() for part in zip(*found)]


def slopes(subject: Subject, weights: Tensors, direction: Tensors, scale: float) -> Tensor:
    """Return g_i.d [N] at w + scale d."""
    with perturb.at(weights, perturb.along(direction, scale), measure=False):
        found = [hessian.slopes(losses, weights, _flat(direction)) for losses in _headline(subject)]
    return torch.cat(found).double().cpu()


def rise(subject: Subject, weights: Tensors, direction: Tensors, scale: float = 1.0) -> Tensor:
    """Return L_i(w + scale d) - L_i(w), [N]."""
    return moved(subject, weights, perturb.along(direction, scale))


def moved(subject: Subject, weights: Tensors, perturbation: perturb.Perturbation) -> Tensor:
    """Return L_i(w') - L_i(w), [N]."""
    with perturb.at(weights, perturbation, measure=False):
        return subject.measure()[0] - subject.own[0]


def random(weights: Tensors, like: Tensors, seed: int, draw: int, by_layer: bool) -> list[Tensor]:
    """Return a random direction of the length of `like`; with `by_layer`, in each tensor."""
    noise = list(perturb.noise(weights, seed, draw))
    if by_layer:
        pairs = [(z, _norm(d), _norm(z)) for z, d in zip(noise, like)]
        return [z * (wanted / torch.where(own > 0, own, 1.0)) for z, wanted, own in pairs]
    factor = length(like) / (length(noise) or 1.0)
    return [z * factor for z in noise]


def _headline(subject: Subject):
    """Functions that give the headline of a batch, for autograd."""
    parts = cut(subject.draws, subject._hessian_batch, subject.size)
    return [functools.partial(subject.headline_of, part) for part in parts]


def _flat(direction: Tensors) -> Tensor:
    return torch.cat([d.reshape(-1) for d in direction])
