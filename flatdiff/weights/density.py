"""The spectral density of a symmetric matrix by its products alone, and its trace.

    phi(x) = mean over probes v of  sum_k w_k^2 delta(x - theta_k)   (Ghorbani et al. 2019, section
    2), theta_k the eigenvalues of Lanczos' T of v, w_k the first entries of its eigenvectors
    tr H = tr Q'HQ + E g'(I - QQ') H (I - QQ') g,  Q a basis of H S  (Meyer et al. 2021, algorithm
    1: Hutch++)

Probes are of random signs, so that v'Hv n, the first entry of T, is Hutchinson's estimate.
"""

import math

import torch
from torch import Tensor

from ..rng import HESSIAN, SKETCH, generator
from .basis import ALONE, Basis, Place
from .hessian import Product, lanczos, noise, signs


def quadrature(
    product: Product, size: int, steps: int, seed: int, draw: int, place: Place = ALONE
) -> tuple[Tensor, Tensor, float]:
    """Return (nodes [K], weights [K], trace) of one probe: the spectrum as K <= steps numbers, and
    which share of it each stands for; moments up to 2K - 1 are the probe's. Memory: K vectors."""
    steps = min(steps, size)
    basis, start = Basis(steps, size, place), signs(size, seed, draw)
    for matrix, length in lanczos(product, basis, start, steps):
        if length <= noise(place) * matrix.abs().max():
            break
    nodes, vectors = torch.linalg.eigh(matrix)
    return nodes, vectors[0].square(), float(matrix[0, 0]) * size


def hutch(product: Product, size: int, count: int, seed: int) -> tuple[float, Tensor]:
    """Return (tr Q'HQ, rests [count]) by 3 count products: the trace is their sum with the mean of
    the rests, which are independent; they are Hutchinson's, of what Q leaves. Memory: 2 count + 2
    vectors."""
    draw = generator(seed, HESSIAN, SKETCH)
    coins = torch.randint(2, (2 * count, size), generator=draw).float() * 2 - 1
    sketch = torch.stack([product(s.double()).double() for s in coins[:count]], dim=1)
    q, lengths, _ = torch.linalg.svd(sketch, full_matrices=False)
    q = q[:, lengths > 1e-12 * lengths[0]]
    inner = sum(float(v @ product(v).double()) for v in q.T)
    rests = []
    for g in coins[count:].double():
        g = g - q @ (q.T @ g)
        rests.append(float(g @ product(g).double()))
    return inner, torch.tensor(rests, dtype=torch.float64)


def smoothed(nodes: Tensor, weights: Tensor, grid: Tensor, width: float) -> Tensor:
    """Return the density [G] on a grid, each node a normal of this deviation (their section 2)."""
    z = (grid[:, None] - nodes) / width
    return (torch.exp(-(z**2) / 2) @ weights) / (width * math.sqrt(2 * math.pi))
