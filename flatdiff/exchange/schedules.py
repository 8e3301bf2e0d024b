"""Noise schedules: how a network is told a noise level, and how often its training visits one.

    x_t = alpha x_0 + sigma eps,    lambda = log(alpha^2 / sigma^2)

Each has `limits`, (least, greatest) lambda that it covers; `at`, the levels at given lambdas;
`trained`, the lambdas that training draws, as a function of uniform numbers; and `density`, how
often it does, per unit of lambda. All in float64. Knows nothing of networks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import special

from ..chain.densities import P_MEAN, P_STD
from ..chain.levels import edm, flow
from ..chain.respace import SIGMA_MAX, SIGMA_MIN

SHARE = 1e-3  # of a continuous schedule's time, at each end, where it would cover endless lambdas
ENDLESS = 40.0  # of log-SNR; beyond it, float32 no longer knows of the image, or of the noise
STEPS = 80  # of a bisection


class At(NamedTuple):
    """Levels [N] as they are: lambda, alpha, sigma, and what a network is told."""

    log_snr: np.ndarray
    alphas: np.ndarray
    sigmas: np.ndarray
    times: np.ndarray


class Chain:
    """Timesteps 0 .. T-1, each visited alike; lambdas between them are taken to the nearest.

    alphas_cumprod: [T], alpha^2 of a variance-preserving chain, falling inside (0, 1); the last may
    be 0, and its lambda, -inf, is then written where the two before it lead.
    """

    path = "vp"

    def __init__(self, alphas_cumprod):
        power = torch.as_tensor(alphas_cumprod, dtype=torch.float64).detach().cpu().numpy()
        if (
            power.ndim != 1
            or len(power) < 3
            or not ((power[:-1] < 1) & (power[1:] < power[:-1]) & (power[:-1] > 0)).all()
            or not power[-1] >= 0
        ):
            raise ValueError(
                f"alphas_cumprod is {np.array2string(power, threshold=6)} of shape {power.shape}; "
                "expected three or more numbers that fall inside (0, 1), of which the last may be 0"
            )
        self.alphas, self.sigmas = np.sqrt(power), np.sqrt(1 - power)
        self.ends_in_noise = power[-1] == 0
        log_snr = np.log(power[:-1]) - np.log1p(-power[:-1])
        last = 2 * log_snr[-1] - log_snr[-2] if self.ends_in_noise else special.logit(power[-1])
        self.log_snr = np.append(log_snr, last)
        self.limits = float(last), float(log_snr[0])
        self._between = (self.log_snr[1:] + self.log_snr[:-1]) / 2
        edges = np.concatenate([self.log_snr[:1], self._between, self.log_snr[-1:]])
        self._density = 1 / (len(power) * -np.diff(edges))

    def _nearest(self, log_snr: np.ndarray) -> np.ndarray:
        return np.searchsorted(-self._between, -np.asarray(log_snr))

    def at(self, log_snr: np.ndarray) -> At:
        t = self._nearest(log_snr)
        return At(self.log_snr[t], self.alphas[t], self.sigmas[t], t)

    def trained(self, u: np.ndarray) -> np.ndarray:
        return self.log_snr[(np.asarray(u) * len(self.log_snr)).astype(int)]

    def density(self, log_snr: np.ndarray) -> np.ndarray:
        """Return each timestep's share, spread evenly over the lambdas that are taken to it."""
        return self._density[self._nearest(log_snr)]


@dataclass(frozen=True)
class Flow:
    """Straight lines: x_s = (1 - s) x_0 + s eps, the network told s (Lipman et al. 2023).

    Training draws u uniformly, and s = shift u / (1 + (shift - 1) u) (Esser et al. 2024, eq. 23).
    """

    shift: float = 1.0
    path = "flow"

    @property
    def limits(self) -> tuple[float, float]:
        return tuple(self.trained(np.array([1 - SHARE, SHARE])).tolist())

    def at(self, log_snr: np.ndarray) -> At:
        alphas, sigmas = flow(log_snr)
        return At(log_snr, alphas, sigmas, sigmas)

    def trained(self, u: np.ndarray) -> np.ndarray:
        return -2 * (special.logit(u) + np.log(self.shift))  # s / (1 - s) = shift u / (1 - u)

    def density(self, log_snr: np.ndarray) -> np.ndarray:
        u = special.expit(-np.asarray(log_snr) / 2 - np.log(self.shift))
        return u * (1 - u) / 2


@dataclass(frozen=True)
class LogNormal:
    """Added noise: x = x_0 + sigma eps, the network told sigma, log(sigma) drawn from a normal.

    mean, std: of log(sigma), those of Karras et al. 2022, table 1.
    """

    mean: float = P_MEAN
    std: float = P_STD
    sigmas: tuple[float, float] = (SIGMA_MIN, SIGMA_MAX)
    path = "edm"

    @property
    def limits(self) -> tuple[float, float]:
        return tuple((-2 * np.log(self.sigmas[::-1])).tolist())

    def at(self, log_snr: np.ndarray) -> At:
        alphas, sigmas = edm(log_snr)
        return At(log_snr, alphas, sigmas, sigmas)

    def trained(self, u: np.ndarray) -> np.ndarray:
        return -2 * (self.mean + self.std * special.ndtri(u))

    def density(self, log_snr: np.ndarray) -> np.ndarray:
        z = (-np.asarray(log_snr) / 2 - self.mean) / self.std
        return np.exp(-(z**2) / 2) / (2 * self.std * np.sqrt(2 * np.pi))


class Curve:
    """Scales as a function of time: t [N] in [0, 1] -> (alpha, sigma), the network told t.

    scales: takes a float64 tensor [N] and gives two tensors, or numbers, whose log-SNR falls, or
    rises, throughout. t is found by bisection, and visited uniformly.
    """

    def __init__(self, scales: Callable):
        self._scales = scales
        t = np.linspace(0, 1, 1001)
        alphas, sigmas = self.scales(t)
        log_snr, change = self.log_snr(t), 0
        if not np.isnan(log_snr).any():
            change = np.diff(log_snr)
        self.rises = bool(np.all(change > 0))
        if not (self.rises or np.all(change < 0)):
            raise ValueError(
                "log(alpha^2 / sigma^2) neither falls nor rises throughout t = 0 .. 1: at t 0, 0.5 "
                f"and 1 it is {log_snr[[0, 500, 1000]].round(3).tolist()}; expected a function of "
                "t (a float64 tensor [N]) that gives (alpha, sigma) of x_t = alpha x_0 + sigma eps"
            )
        sums = {"flow": alphas + sigmas, "vp": alphas**2 + sigmas**2, "edm": alphas}
        paths = [path for path, total in sums.items() if np.abs(total - 1).max() < 1e-5]
        self.path = paths[0] if paths else "any"
        ends = self.log_snr(np.array([0.0, 1.0]))
        inside = self.log_snr(np.array([SHARE, 1 - SHARE]))
        self.limits = tuple(sorted(np.where(np.abs(ends) < ENDLESS, ends, inside).tolist()))

    def scales(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return alpha and sigma, float64 [N]; ValueError where the function gives no such."""
        given = torch.from_numpy(np.asarray(t, np.float64))
        try:
            alphas, sigmas = (
                torch.as_tensor(v, dtype=torch.float64).detach().cpu().expand(len(t)).numpy()
                for v in self._scales(given)
            )
        except (TypeError, ValueError, RuntimeError) as error:
            name = getattr(self._scales, "__name__", type(self._scales).__name__)
            raise ValueError(
                f"the schedule {name} fails on a float64 tensor of {len(t)} times "
                f"({error}); expected a function of t [N] in [0, 1] that gives (alpha [N], sigma)"
            ) from error
        return alphas, sigmas

    def log_snr(self, t: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return 2 * np.subtract(*np.log(self.scales(t)))

    def _time(self, log_snr: np.ndarray) -> np.ndarray:
        low, high = np.zeros(len(log_snr)), np.ones(len(log_snr))
        for _ in range(STEPS):
            t = (low + high) / 2
            later = (self.log_snr(t) > log_snr) ^ self.rises
            low, high = np.where(later, t, low), np.where(later, high, t)
        return (low + high) / 2

    def at(self, log_snr: np.ndarray) -> At:
        t = self._time(log_snr)
        return At(self.log_snr(t), *self.scales(t), t)

    def trained(self, u: np.ndarray) -> np.ndarray:
        return self.log_snr(np.asarray(u))

    def density(self, log_snr: np.ndarray) -> np.ndarray:
        t = self._time(np.asarray(log_snr))
        step = 1e-5 * np.maximum(t * (1 - t), SHARE)
        later, before = np.minimum(t + step, 1), np.maximum(t - step, 0)
        return np.abs((later - before) / (self.log_snr(later) - self.log_snr(before)))
