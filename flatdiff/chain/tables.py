"""What all chains share: coefficients at each noise level, where and as a tensor needs them.

    x_t = alpha_t x_0 + sigma_t eps,    log-SNR lambda_t = log(alpha_t^2 / sigma_t^2)

A chain has arrays `alphas` and `sigmas`, float64 [T], for the levels t = 0 .. T-1, least noise
first, and `alphas_prev` and `sigmas_prev`, those of t-1: of the image, 1 and 0, at t = 0. Eps-, x-,
v- and flow networks meet on the axis of lambda.
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

MOST_NOISE = 500.0  # sigma / alpha, of which a step to less would be too long for Heun's slope
MOST_ERROR = 20.0  # of eps, over that of what the network predicts


class Tables:
    """Arrays [T] by name, and their values at t; float32 copies stay on each device of theirs."""

    density: np.ndarray | None = None  # [T], of the levels in training; None: each alike
    input_pertub = 0.0
    prior_std = 1.0  # of x_T, where sampling begins
    path = "vp"  # what alphas and sigmas have to do with each other: see `levels`

    def __init__(self):
        self._on_device = {}

    def _at(self, name: str, t: Tensor, x: Tensor) -> Tensor:
        """A coefficient at t [N], float32, shaped to broadcast over x [N, ...]."""
        return self._table(name, t.device)[t].view(-1, *[1] * (x.ndim - 1))

    def _table(self, name: str, device: torch.device) -> Tensor:
        """The array `name` on a device: float32 from float64, integers as they are."""
        array = getattr(self, name)
        source, table = self._on_device.get((name, device), (None, None))
        if source is not array:  # not there yet, or another array was assigned since
            table = torch.as_tensor(array)
            table = (table.float() if table.is_floating_point() else table).to(device)
            self._on_device[name, device] = array, table
        return table

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_on_device": {}}  # the reader may not have these devices

    def _set_eps_scale(self, scaler: float, slope: float, predicts: str) -> None:
        """The divisor of the predicted noise at each step (Ning et al. 2024, section 4)."""
        self.eps_scaler, self.eps_scaler_slope = scaler, slope
        self.eps_scale = scaler + slope * np.arange(self.num_timesteps)
        self.scales_eps = (scaler, slope) != (1.0, 0.0)
        if not (self.eps_scale > 0).all():
            raise ValueError(
                f"eps_scaler {scaler} and eps_scaler_slope {slope} divide the noise by "
                f"{self.eps_scale.min()} at some step of 0 .. {self.num_timesteps - 1}; "
                "the divisor must stay above 0 (1 and 0: off)"
            )
        if self.scales_eps and predicts not in ("EPSILON", "eps"):
            raise ValueError(
                f"eps_scaler {scaler} and eps_scaler_slope {slope} act on predicted noise, and "
                f"this network predicts {predicts}: leave them at 1 and 0"
            )

    @property
    def powers(self) -> tuple[np.ndarray, np.ndarray]:
        """alpha_t^2 and sigma_t^2, float64 [T] each."""
        return self.alphas**2, self.sigmas**2

    @cached_property
    def heun_half(self) -> np.ndarray:
        """[T]: by how much of the difference of two slopes Heun's step leaves Euler's; 0: none.

        None where the second slope would make its network's error MOST_ERROR times as large, as of
        one that predicts x_0, at little noise (Li & He 2025).
        """
        if self.path == "flow":  # x, by sigma
            half = (self.sigmas_prev - self.sigmas) / 2
        else:  # x / alpha, by sigma / alpha (Karras et al. 2022)
            with np.errstate(divide="ignore"):
                ratio, before = self.sigmas / self.alphas, self.sigmas_prev / self.alphas_prev
            half = np.where(ratio > MOST_NOISE, 0.0, self.alphas_prev * (before - ratio) / 2)
        blown_up = self.alphas * np.sqrt(self.x_factor) / self.sigmas > MOST_ERROR
        return np.where(np.append(True, blown_up[:-1]), 0.0, half)

    @property
    def log_snr(self) -> np.ndarray:
        """lambda_t, float64 [T], falling; -inf where alpha is 0."""
        with np.errstate(divide="ignore"):
            return 2 * (np.log(self.alphas) - np.log(self.sigmas))

    def _seen(self, noise: Tensor, input_noise: Tensor | None) -> Tensor:
        """The noise of x_t in training: with input_pertub, some is added that is no target."""
        if not self.input_pertub:
            return noise
        xi = torch.randn_like(noise) if input_noise is None else input_noise
        return noise + self.input_pertub * xi
