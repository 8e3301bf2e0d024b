"""Averages of weights as profiles over time, and any of them from snapshots of a few.

An average is told by the share C(t) that weights of the first t updates have in it, all together:
(t / count)^(gamma + 1) for a power function (Karras et al. 2024, "Analyzing and Improving the
Training Dynamics of Diffusion Models", section 3.1), rate^(count - t) for an exponential one.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from torch import Tensor

TRACKS = 0.05, 0.1  # sigma_rel of the averages that snapshots are taken of (section 3.2)
WIDEST = 12**-0.5  # sigma_rel of the plain mean, gamma 0
NODES = 32  # between two snapshots, at which profiles are compared
Profile = Callable[[np.ndarray], np.ndarray]  # t [..] in [0, count] -> C(t), 1 from count on


def gamma_of(sigma_rel: float) -> float:
    """Return the power's exponent: of sigma_rel = sqrt((g + 1) / ((g + 2)^2 (g + 3))), g >= 0.

    sigma_rel: standard deviation of the profile, as a share of the time since the start, which is
    that of a Beta(g + 1, 1). ValueError unless it is in (0, 0.2887).
    """
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(
            f"sigma_rel is {sigma_rel:g}; expected the width of the average as a share of the "
            f"training, above 0 and below {WIDEST:.4f}, the plain mean's; for example 0.05"
        )
    t = sigma_rel**-2
    roots = np.roots([1, 7, 16 - t, 12 - t])
    return float(roots[abs(roots.imag) < 1e-6 * abs(roots)].real.max())


def sigma_rel_of(gamma: float) -> float:
    """Return the width of the power function's profile: see `gamma_of`."""
    return ((gamma + 1) / (gamma + 3)) ** 0.5 / (gamma + 2)


def power(sigma_rel: float, count: float) -> Profile:
    """Return the profile of a power function after so many updates."""
    exponent = gamma_of(sigma_rel) + 1
    return lambda t: np.clip(t / count, 0, 1) ** exponent


def exponential(rate: float, count: float) -> Profile:
    """Return the profile of an EMA, in which the first weights have the share rate^count."""
    return lambda t: rate ** (count - np.minimum(t, count))


@dataclasses.dataclass(frozen=True)
class Fit:
    """`shares` [K] of known averages, of sum 1, that come nearest to a wanted one. `residual`: how
    far they miss it, as a share of its own distance from the last weights, were these a random
    walk."""

    shares: np.ndarray
    residual: float


def fit(known: Sequence[tuple[Profile, float]], wanted: Profile, count: float) -> Fit:
    """Find the wanted average of `count` updates in the span of known ones, each with its count.

    Least squares of the shares C(t), not of their densities as in the paper's appendix C: if steps
    are independent of each other, the square of the error is the integral of C's. At the plain
    mean's end of the range this is nearer by two orders of magnitude.
    """
    t, weight = _nodes(sorted({0.0, *(float(n) for _, n in known), float(count)}))
    columns = np.stack([profile(t) for profile, _ in known], axis=1)
    aim, root = wanted(t), np.sqrt(weight)
    less = (columns[:, :-1] - columns[:, -1:]) * root[:, None]  # so that their sum is 1
    shares = np.linalg.lstsq(less, (aim - columns[:, -1]) * root, rcond=None)[0]
    shares = np.append(shares, 1 - shares.sum())
    missed, length = ((root * c) @ (root * c) for c in (columns @ shares - aim, aim * (t < count)))
    return Fit(shares, float(np.sqrt(missed / length)))


def _nodes(edges: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights of Gauss and Legendre between each two edges."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    low, high = np.array(edges[:-1])[:, None], np.array(edges[1:])[:, None]
    return (low + (high - low) * (x + 1) / 2).ravel(), ((high - low) / 2 * w).ravel()


def width(profile: Profile, count: float, edges: int = 64) -> float:
    """Return the profile's standard deviation as a share of `count`: sigma_rel of any average."""
    t, weight = _nodes(list(count * (1 - np.linspace(1, 0, edges + 1) ** 2)))
    left = 1 - profile(t)
    mean, square = weight @ left, 2 * weight @ (t * left)
    return float(np.sqrt(max(square - mean**2, 0)) / count)


def combined(
    parts: Iterable[tuple[float, dict[str, Tensor]]], into: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the sum of share x weights by name, float64; added to `into`, if there is one."""
    total = into if into is not None else {}
    for share, weights in parts:
        for name, weight in weights.items():
            term = weight.double() * share
            total[name] = total[name].add_(term) if name in total else term
    return total
