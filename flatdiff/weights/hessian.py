"""The Hessian of a loss without ever forming it: its largest eigenvalues and its trace.

    H v = d/dw (g(w) . v)       double backward (Pearlmutter 1994)
    H Q = Q T                   Lanczos: the eigenvalues of the small T approach those of H
    tr H = E z . H z            z of random signs (Hutchinson 1989)

The products here are exact; `differences` has such that cost two gradients. Vectors are flat. Knows
neither networks nor ranks.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..kernels.calls import twice_differentiable
from ..rng import HESSIAN, SIGNS, START, generator
from .basis import ALONE, Basis, Place

Product = Callable[[Tensor], Tensor]  # v [n] -> H v [n]


def hessian_vector_product(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], vector: Tensor
) -> Tensor:
    """H v [n] of the scalar loss() at the weights, in their dtype and on their device."""
    with twice_differentiable():
        slope = _slope(loss(), weights, vector)
        products = torch.autograd.grad(slope, weights, materialize_grads=True)
    return torch.cat([p.reshape(-1) for p in products])


def _slope(value: Tensor, weights: Sequence[Tensor], vector: Tensor) -> Tensor:
    """g . v, g the gradient of a value, to be differentiated again."""
    gradient = torch.autograd.grad(value, weights, create_graph=True, materialize_grads=True)
    parts = vector.split([w.numel() for w in weights])
    return sum((g * v.view(w.shape).to(w)).sum() for g, v, w in zip(gradient, parts, weights))


def curvatures(losses: Callable[[], Tensor], weights: Sequence[Tensor], vector: Tensor) -> Tensor:
    """v . H_i v [N], H_i the Hessian of each of losses() [N] at the weights.

    It is what image i adds to an eigenvalue, to first order, if v is its unit eigenvector. The
    second derivative along v of sum(c_i L_i) is linear in c; its gradient in c is the answer.
    """
    with twice_differentiable():
        each = losses()
        factors = torch.ones_like(each, requires_grad=True)
        slope = (factors * each).sum()
        for _ in range(2):
            slope = _slope(slope, weights, vector)
        return torch.autograd.grad(slope, factors)[0]


def along(
    losses: Callable[[], Tensor], weights: Sequence[Tensor], vector: Tensor
) -> tuple[Tensor, Tensor]:
    """(g_i . v, v . H_i v), both [N]: slope and curvature along v of each of losses() [N].

    As `curvatures`, with the slopes, which are linear in c too, for one more pass.
    """
    with twice_differentiable():
        each = losses()
        factors = torch.ones_like(each, requires_grad=True)
        slope = _slope((factors * each).sum(), weights, vector)
        (slopes,) = torch.autograd.grad(slope, factors, retain_graph=True)
        (twice,) = torch.autograd.grad(_slope(slope, weights, vector), factors)
    return slopes, twice


def slopes(losses: Callable[[], Tensor], weights: Sequence[Tensor], vector: Tensor) -> Tensor:
    """g_i . v [N], g_i the gradient of each of losses() [N] at the weights."""
    with twice_differentiable():
        each = losses()
        factors = torch.ones_like(each, requires_grad=True)
        slope = _slope((factors * each).sum(), weights, vector)
        return torch.autograd.grad(slope, factors)[0]


def top_eigenvalues(
    product: Product,
    size: int,
    count: int,
    seed: int,
    max_steps: int,
    tolerance: float = 1e-3,
    place: Place = ALONE,
) -> tuple[Tensor, Tensor, Tensor]:
    """(eigenvalues, residuals [count], vectors [count, size]): of H, size x size, largest first.

    Lanczos with full reorthogonalization, twice a step. It ends when all residuals are about to be
    below tolerance * |lambda_1|, after max_steps products, or when the space is exhausted. Then
    `count` more products give the residuals themselves, ||H v - lambda v|| for the unit vectors v
    found, rounding included: some eigenvalue of H is no further than that from lambda. An
    eigenvalue that several vectors share is found once. Memory: max_steps vectors, in the place's
    dtype, over all its ranks; products are given and give whole ones, on its device.
    """
    steps = min(max_steps, size)
    if not 0 < count <= steps:
        raise ValueError(
            f"num_eigenvalues is {count}; expected 1 to {steps}, the number of Lanczos steps"
        )
    basis = Basis(steps, size, place)
    start = torch.randn(size, dtype=torch.float64, generator=generator(seed, HESSIAN, START))
    for matrix, length in lanczos(product, basis, start, steps):
        values, ritz = torch.linalg.eigh(matrix)
        values, ritz = values.flip(0)[:count], ritz.flip(1)[:, :count]
        scale = values[0].abs()
        settled = (length * ritz[-1].abs() <= tolerance * scale).all() and len(matrix) >= count
        if settled or length <= noise(place) * scale:
            break
    vectors = torch.stack([basis.whole(basis.combined(factors)) for factors in ritz.T])
    rests = (basis.share(product(v)) - x * basis.share(v) for x, v in zip(values.tolist(), vectors))
    return values, torch.stack([basis.norm(rest) for rest in rests]), vectors


def lanczos(
    product: Product, basis: Basis, start: Tensor, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield T [k, k] after k = 1, 2, ..., steps products, in the basis that begins with the start
    [n], and the length of what H adds to it, orthogonalized in full, twice."""
    matrix = torch.zeros(steps, steps, dtype=torch.float64)
    share = basis.share(start)
    length = basis.norm(share)
    for k in range(steps):
        share = basis.share(product(basis.add(share / length)))
        matrix[k, k] = basis.dots(share)[k]
        for _ in range(2):
            share -= basis.combined(basis.dots(share))
        length = basis.norm(share)
        yield matrix[: k + 1, : k + 1], length
        if k + 1 < steps:
            matrix[k, k + 1] = matrix[k + 1, k] = length


def noise(place: Place) -> float:
    """What is rounding, as a share of the largest: where a basis is kept so."""
    return torch.finfo(place.dtype).eps ** 0.75


def signs(size: int, seed: int, draw: int) -> Tensor:
    """z [size] of (seed, draw), each 1 or -1: the mean over draws of z . H z is the trace of H."""
    coins = torch.randint(2, (size,), generator=generator(seed, HESSIAN, SIGNS, draw))
    return coins.double() * 2 - 1
