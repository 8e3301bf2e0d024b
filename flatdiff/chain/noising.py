"""q, the half of a diffusion that is known: an image is noised in T steps (Ho et al. 2020).

    q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I),  abar_t = product of (1 - beta_s) to s = t

t counts from 0, the least noise, to T - 1. Nothing here knows of networks.
"""

import math
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .tables import Tables


def get_named_beta_schedule(schedule_name: str, num_diffusion_timesteps: int) -> np.ndarray:
    """float64 betas [T]: "linear" (Ho et al. 2020) or "cosine" (Nichol & Dhariwal 2021, eq. 17)."""
    if schedule_name == "linear":
        if num_diffusion_timesteps <= 20:
            raise ValueError(
                f"{num_diffusion_timesteps} diffusion steps are too few for the linear schedule, "
                "whose last beta is 20 / steps: take 21 or more, or the cosine schedule; "
                "fewer sampling steps are the business of timestep_respacing"
            )
        scale = 1000.0 / num_diffusion_timesteps
        return np.linspace(scale * 1e-4, scale * 0.02, num_diffusion_timesteps)
    if schedule_name == "cosine":
        return betas_for_alpha_bar(
            num_diffusion_timesteps, lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        )
    raise ValueError(f"noise_schedule is {schedule_name!r}; valid are 'linear' and 'cosine'")


def betas_for_alpha_bar(
    num_diffusion_timesteps: int, alpha_bar: Callable[[float], float], max_beta: float = 0.999
) -> np.ndarray:
    """float64 betas [T] whose product of (1 - beta) follows alpha_bar(u), u from 0 to 1."""
    levels = [alpha_bar(i / num_diffusion_timesteps) for i in range(num_diffusion_timesteps + 1)]
    return np.array([min(1 - b / a, max_beta) for a, b in pairwise(levels)])


def _extract_into_tensor(arr, timesteps: Tensor, broadcast_shape) -> Tensor:
    """guided-diffusion's look-up: arr[timesteps] as float32, [N, ...] in `broadcast_shape`."""
    values = torch.as_tensor(arr, device="cpu").float().to(timesteps.device)[timesteps]
    return values.view(-1, *[1] * (len(broadcast_shape) - 1)).expand(broadcast_shape)


class Noising(Tables):
    """The coefficients that follow from betas, and q with them, over images x [N, ...] and t [N].

    betas: [T], two or more, each in (0, 1). The coefficients are float64 arrays [T], named as in
    guided-diffusion. Tensors are computed with float32 copies of them, which stay on each device
    where they were used.
    """

    def __init__(self, betas):
        self.betas = betas = np.array(betas, dtype=np.float64)
        if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
            raise ValueError(
                f"betas is {np.array2string(betas, threshold=6)} of shape {betas.shape}: a chain "
                "needs two or more steps (also after timestep_respacing), and each beta must lie "
                "strictly between 0 and 1"
            )
        self.num_timesteps = len(betas)
        self.alphas_cumprod = abar = np.cumprod(1.0 - betas)
        self.alphas_cumprod_prev = before = np.append(1.0, abar[:-1])
        self.alphas_cumprod_next = np.append(abar[1:], 0.0)
        self.sqrt_alphas_cumprod = np.sqrt(abar)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1.0 - abar)
        self.log_one_minus_alphas_cumprod = np.log(1.0 - abar)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1.0 / abar)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1.0 / abar - 1.0)
        self.posterior_variance = variance = betas * (1.0 - before) / (1.0 - abar)
        # The variance at t = 0 is 0, which has no logarithm: its neighbour's stands in.
        self.posterior_log_variance_clipped = np.log(np.append(variance[1], variance[1:]))
        self.posterior_mean_coef1 = betas * np.sqrt(before) / (1.0 - abar)
        self.posterior_mean_coef2 = (1.0 - before) * np.sqrt(1.0 - betas) / (1.0 - abar)
        super().__init__()

    @property
    def alphas(self) -> np.ndarray:
        return self.sqrt_alphas_cumprod

    @property
    def sigmas(self) -> np.ndarray:
        return self.sqrt_one_minus_alphas_cumprod

    @cached_property
    def alphas_prev(self) -> np.ndarray:
        return np.sqrt(self.alphas_cumprod_prev)

    @cached_property
    def sigmas_prev(self) -> np.ndarray:
        return np.sqrt(1.0 - self.alphas_cumprod_prev)

    @property
    def powers(self) -> tuple[np.ndarray, np.ndarray]:
        return self.alphas_cumprod, 1.0 - self.alphas_cumprod

    def q_mean_variance(self, x_start: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """Mean, variance and log variance of q(x_t | x_0), each shaped as x_start."""
        mean = self._at("sqrt_alphas_cumprod", t, x_start) * x_start
        log_variance = self._at("log_one_minus_alphas_cumprod", t, x_start)
        variance = self._at("sqrt_one_minus_alphas_cumprod", t, x_start) ** 2
        return mean, variance.expand_as(x_start), log_variance.expand_as(x_start)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (Ho et al. 2020, equation 4)."""
        noise = torch.randn_like(x_start) if noise is None else noise
        signal = self._at("sqrt_alphas_cumprod", t, x_start) * x_start
        return signal + self._at("sqrt_one_minus_alphas_cumprod", t, x_start) * noise

    def q_posterior_mean_variance(
        self, x_start: Tensor, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, ...]:
        """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0) (equations 6, 7)."""
        mean = self._at("posterior_mean_coef1", t, x_t) * x_start
        mean = mean + self._at("posterior_mean_coef2", t, x_t) * x_t
        variance = self._at("posterior_variance", t, x_t).expand_as(x_t)
        return mean, variance, self._at("posterior_log_variance_clipped", t, x_t).expand_as(x_t)

    def _predict_xstart_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The x_0 of which q_sample makes x_t with eps."""
        scaled = self._at("sqrt_recip_alphas_cumprod", t, x_t) * x_t
        return scaled - self._at("sqrt_recipm1_alphas_cumprod", t, x_t) * eps

    def _predict_xstart_from_xprev(self, x_t: Tensor, t: Tensor, xprev: Tensor) -> Tensor:
        """The x_0 for which xprev is the mean of q(x_{t-1} | x_t, x_0)."""
        rest = xprev - self._at("posterior_mean_coef2", t, x_t) * x_t
        return rest / self._at("posterior_mean_coef1", t, x_t)

    def _predict_xstart_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """The x_0 of which q_sample makes x_t with sqrt(abar) noise - sqrt(1 - abar) x_0 = v."""
        return self._at("alphas", t, x_t) * x_t - self._at("sigmas", t, x_t) * v

    def _predict_eps_from_xstart(self, x_t: Tensor, t: Tensor, pred_xstart: Tensor) -> Tensor:
        """The noise with which q_sample makes x_t of pred_xstart."""
        difference = self._at("sqrt_recip_alphas_cumprod", t, x_t) * x_t - pred_xstart
        return difference / self._at("sqrt_recipm1_alphas_cumprod", t, x_t)

    @cached_property
    def dpmpp_keep(self) -> np.ndarray:
        """sigma_{t-1} / sigma_t, where sigma_t = sqrt(1 - abar_t): the share of x_t that stays."""
        return np.sqrt((1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod))

    @cached_property
    def dpmpp_add(self) -> np.ndarray:
        """alpha_{t-1} (1 - exp(-h)), where alpha_t = sqrt(abar_t) and h is the step in lambda."""
        return np.sqrt(self.alphas_cumprod_prev) - self.dpmpp_keep * self.sqrt_alphas_cumprod

    @cached_property
    def dpmpp_extrapolate(self) -> np.ndarray:
        """h / (2 h of the step before), lambda_t = log(alpha_t / sigma_t); 0 at both ends."""
        h = -np.diff(np.log(self.alphas_cumprod / (1 - self.alphas_cumprod)) / 2)
        return np.concatenate([[0.0], h[:-1] / (2 * h[1:]), [0.0]])
