"""Moves of a network's weights by name (`flags.choices.MOVES`), each w' = f(w) of a subject.

    move = moves.named("climb rho=0.5")[0]
    with moves.held(start, move) as distance: ...

What moves along the gradient or an eigenvector of the Hessian takes those of the headline's mean.
"""

import functools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..exchange.families import inside
from ..flags import choices, parse
from ..quantization.grid import Quantizer, layers_of
from ..quantization.rounded import Rounded
from ..weights import perturb, pruning
from . import curve, plane, spectrum
from .chains import fingerprint
from .quantizers import ends_of
from .subject import Subject, cut

AVERAGE = "towards"  # the one that needs another file


class Move(NamedTuple):
    """One w': a name of the registry with other knobs, how far, and which draw."""

    kind: str
    size: float
    draw: int = 0

    @property
    def knob(self) -> str:
        """What the size is called."""
        return choices.entry(choices.MOVES, self.kind).knob

    @property
    def told(self) -> str:
        """As a command line has it."""
        return f"{self.kind} {self.knob}={self.size:g}"

    def __str__(self) -> str:
        return self.told + (f" draw={self.draw} {perturb.NUMBERS}" if self.random else "")

    @property
    def random(self) -> bool:
        return choices.entry(choices.MOVES, self.kind).random


class Start:
    """A subject at its weights, and the directions that are found there once.

    guide: the network on other images, whose loss the directions are of; None: the subject. A loss
    is best measured where no direction was fitted to it: along the gradient of a few images it
    rises more on these than on any others. others: the weights of another file.
    """

    def __init__(
        self,
        subject: Subject,
        others: Sequence[Tensor] | None = None,
        guide: Subject | None = None,
    ):
        self.subject, self.others, self.guide = subject, others, guide or subject

    def key_of(self, move: Move) -> str:
        """Name a move, and what it depends on beside the subject."""
        return f"{move} {fingerprint(self.others)}" if move.kind == AVERAGE else str(move)

    @functools.cached_property
    def gradient(self) -> list[Tensor]:
        """The gradient of the headline's mean, of length 1, shaped as the weights."""
        subject = self.guide
        count = subject.batch_size or subject.size
        weight = subject.plan.weight.float().to(subject.device).split(count)
        total = [torch.zeros_like(w) for w in subject.weights]
        with torch.enable_grad():
            for draws, part in zip(cut(subject.draws, count, subject.size), weight):
                mean = (subject.headline_of(draws) * part).sum() / subject.size
                found = torch.autograd.grad(mean, subject.weights, materialize_grads=True)
                torch._foreach_add_(total, found)
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(total))))
        if not 0 < norm < math.inf:
            raise ValueError(
                f"the gradient of {subject.name} has the norm {norm}: it leads nowhere"
            )
        torch._foreach_div_(total, norm)
        return total

    @functools.cached_property
    def eigenvector(self) -> list[Tensor]:
        """The unit vector of the largest eigenvalue, uphill, shaped as the weights; by all ranks
        together."""
        with torch.enable_grad():
            _, _, (vector,) = spectrum.top(self.guide, 1)
        sizes = [w.numel() for w in self.subject.weights]
        parts = vector.to(self.subject.device).split(sizes)
        found = [p.view(w.shape).to(w) for p, w in zip(parts, self.subject.weights)]
        slope = sum(float((v * g).sum()) for v, g in zip(found, self.gradient))
        return found if slope >= 0 else list(torch._foreach_neg(found))


def gaussian(start: Start, sigma: float = 5e-3, draw: int = 0) -> perturb.Perturbation:
    """w' = w + sigma z: the draws of LPF, of which 2k and 2k + 1 are mirrored."""
    return curve.perturbation(perturb.gaussian, sigma, start.subject.seed, draw)


def sphere(start: Start, radius: float = 5.0, draw: int = 0) -> perturb.Perturbation:
    """w' = w + radius z / ||z||: the draws of MC."""
    return curve.perturbation(perturb.sphere, radius, start.subject.seed, draw)


def climb(start: Start, rho: float = 0.3) -> perturb.Perturbation:
    """w' = w + rho g / ||g||: where SAM takes its gradient (Foret et al. 2021, equation 2)."""
    return perturb.along(start.gradient, rho)


def descent(start: Start, rho: float = 0.3) -> perturb.Perturbation:
    """w' = w - rho g / ||g||."""
    return perturb.along(start.gradient, -rho)


def eigenvector(start: Start, length: float = 0.3) -> perturb.Perturbation:
    """w' = w + length v, v the unit eigenvector of the Hessian's largest eigenvalue, uphill."""
    return perturb.along(start.eigenvector, length)


def quantized(
    start: Start,
    bits: int = 4,
    granularity: str = "tensor",
    symmetric: bool = False,
    ends: str = "minmax",
) -> perturb.Perturbation:
    """w' = w in so many bits, of convolutions and linear layers, as sampling has it."""
    return Rounded(Quantizer(bits, granularity, symmetric, ends_of(ends)))


def pruned(start: Start, share: float = 0.3) -> perturb.Perturbation:
    """w' = w, the smallest share of the weights of convolutions and linear layers at 0."""
    return OfLayers(pruning.magnitude(share))


def towards(start: Start, share: float = 1.0) -> perturb.Perturbation:
    """w' = (1 - share) w + share others: part of the way to another file of the network."""
    return plane.between(start.others, share)


class OfLayers:
    """A perturbation of the weights that are quantized: those of convolutions and linear layers."""

    def __init__(self, perturbation: perturb.Perturbation):
        self.perturbation = perturbation

    def weights_of(self, net: nn.Module) -> list[Tensor]:
        """Return the weights of the layers, each once."""
        return list({id(layer.weight): layer.weight for layer in layers_of(net).values()}.values())

    def __call__(self, weights: list[Tensor]) -> None:
        self.perturbation(weights)


def named(text: str, num_draws: int = 1, average: bool = False) -> list[Move]:
    """Return the moves of a text as "climb,gaussian sigma=0.01": of a name alone, those of all its
    sizes in the registry; of random ones, so many draws. "": all kinds, `towards` if there is an
    average. ValueError for what is no move, or has a size that makes no sense."""
    texts = parse.parts(text) or [k for k in choices.MOVES if average or k != AVERAGE]
    found = []
    for each in texts:
        entry = choices.entry(choices.MOVES, each)
        _, knobs = choices.chosen(choices.MOVES, each, given=("draw",))
        sizes = [knobs.pop(entry.knob)] if entry.knob in knobs else entry.sizes
        name = choices.named(choices.MOVES, each)[0]
        kind = " ".join([name, *(f"{k}={v}" for k, v in knobs.items())])
        if name == AVERAGE and not average:
            raise ValueError(f"{AVERAGE}: give --average_path, the file that weights are moved to")
        draws = range(num_draws if entry.random else 1)
        found += [Move(kind, size, draw) for size in sizes for draw in draws]
    for move in found:
        _check(move)
    return list(dict.fromkeys(found))


def one(text: str, average: bool = False) -> Move:
    """Return the move of a text that names its size; ValueError for several."""
    first, *others = named(text, average=average)
    if others:
        raise ValueError(f"--move {text!r} has no one size; expected it behind it, as {first.told}")
    return first


def leads_there(moves: list[Move]) -> bool:
    """Whether some move leads to another file."""
    return any(move.kind == AVERAGE for move in moves)


def _check(move: Move) -> None:
    low, high = {"bits": (2, 8), "share": (0, 1)}.get(move.knob, (-math.inf, math.inf))
    if not (math.isfinite(move.size) and move.size != 0 and low <= move.size <= high):
        wanted = "a number, not 0" if low == -math.inf else f"{low} to {high}, not 0"
        raise ValueError(f"{move.kind}, {move.knob}: got {move.size:g}, expected {wanted}")


def perturbation_of(start: Start, move: Move) -> perturb.Perturbation:
    """Return what moves the weights; by all ranks together."""
    function, knobs = choices.chosen(choices.MOVES, move.kind, given=("draw",))
    drawn = {"draw": move.draw} if move.random else {}
    return function(start, **knobs, **{move.knob: move.size}, **drawn)


def held(start: Start, move: Move) -> AbstractContextManager[Tensor]:
    """Hold the network there inside the block, as `perturb.at`, which gives the distance."""
    perturbation, subject = perturbation_of(start, move), start.subject
    if own := getattr(perturbation, "weights_of", None):
        return perturb.at(own(inside(subject.model)), perturbation)
    return perturb.at(subject.weights, perturbation, subject.spare)
