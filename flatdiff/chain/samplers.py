"""From noise to images: ancestral sampling, DDIM and DPM-Solver++(2M), and guidance for each.

Each is a step x_t -> {"sample": x_{t-1}, "pred_xstart": x_0 as guessed}, and a loop of that step
from t = T-1 down to 0. The steps build on a chain's p and coefficients (gaussian_diffusion.py).

Common arguments: model(x, t, **model_kwargs); clip_denoised and denoised_fn as in p_mean_variance;
cond_fn(x, t, **model_kwargs), the gradient of log p(condition | x_t), t as the network sees it;
randn, called with x_t once a step, also where its noise has no weight: a caller can give each image
a generator of its own. The loops take noise, x_T, or draw it by torch.randn(*shape), on `device`
(default: that of noise, or of the model's parameters).
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from tqdm import tqdm

Out = dict[str, torch.Tensor]


class Samplers:
    """What a GaussianDiffusion can do to make images; it inherits this."""

    def _set_eps_scale(self, scaler: float, slope: float, predicts_eps: bool) -> None:
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
        if self.scales_eps and not predicts_eps:
            raise ValueError(
                f"eps_scaler {scaler} and eps_scaler_slope {slope} act on predicted noise, and "
                f"this network predicts {self.model_mean_type.name}: leave them at 1 and 0"
            )

    def _p(self, model, x, t, clip_denoised, denoised_fn, model_kwargs) -> Out:
        """p_mean_variance as the samplers use it: the predicted noise is divided by eps_scale."""
        common = {"denoised_fn": denoised_fn, "model_kwargs": model_kwargs}
        model = self._divided(model, x, t) if self.scales_eps else model
        return self.p_mean_variance(model, x, t, clip_denoised=clip_denoised, **common)

    def _divided(self, model, x, t) -> Callable:
        """The network, with the noise that it predicts at this chain's step t divided."""

        def divided(x_t, timesteps, **model_kwargs):
            output = model(x_t, timesteps, **model_kwargs).to(x.dtype)
            eps, values = output.tensor_split([x.shape[1]], dim=1)
            return torch.cat([eps / self._at("eps_scale", t, x), values], dim=1)

        return divided

    def condition_mean(self, cond_fn, p_mean_var, x, t, model_kwargs=None) -> torch.Tensor:
        """The mean shifted by variance * gradient (Dhariwal & Nichol 2021, algorithm 1).

        The gradient is that at x_t, not at the mean, as in guided-diffusion.
        """
        gradient = cond_fn(x, self._scale_timesteps(t), **(model_kwargs or {}))
        return p_mean_var["mean"].float() + p_mean_var["variance"] * gradient.float()

    def condition_score(self, cond_fn, p_mean_var, x, t, model_kwargs=None) -> Out:
        """p with its noise less sqrt(1 - abar_t) * gradient (algorithm 2); x_0 is not clamped."""
        gradient = cond_fn(x, self._scale_timesteps(t), **(model_kwargs or {}))
        eps = self._predict_eps_from_xstart(x, t, p_mean_var["pred_xstart"])
        eps = eps - self._at("sqrt_one_minus_alphas_cumprod", t, x) * gradient
        pred_xstart = self._predict_xstart_from_eps(x, t, eps)
        mean = self.q_posterior_mean_variance(x_start=pred_xstart, x_t=x, t=t)[0]
        return p_mean_var | {"pred_xstart": pred_xstart, "mean": mean}

    def p_sample(
        self,
        model,
        x,
        t,
        clip_denoised=True,
        denoised_fn=None,
        cond_fn=None,
        model_kwargs=None,
        randn=torch.randn_like,
    ) -> Out:
        """A draw from p(x_{t-1} | x_t) (Ho et al. 2020, algorithm 2); at t = 0 its mean."""
        out = self._p(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        noise = randn(x)
        if cond_fn is not None:
            out["mean"] = self.condition_mean(cond_fn, out, x, t, model_kwargs=model_kwargs)
        sigma = (t != 0).view(-1, *[1] * (x.ndim - 1)) * torch.exp(0.5 * out["log_variance"])
        return {"sample": out["mean"] + sigma * noise, "pred_xstart": out["pred_xstart"]}

    def ddim_sample(
        self,
        model,
        x,
        t,
        clip_denoised=True,
        denoised_fn=None,
        cond_fn=None,
        model_kwargs=None,
        eta=0.0,
        randn=torch.randn_like,
    ) -> Out:
        """A DDIM step (Song et al. 2020, equations 12 and 16): eta 0 adds no noise, 1 as DDPM."""
        out = self._p(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if cond_fn is not None:
            out = self.condition_score(cond_fn, out, x, t, model_kwargs=model_kwargs)
        eps = self._predict_eps_from_xstart(x, t, out["pred_xstart"])
        abar, before = self._at("alphas_cumprod", t, x), self._at("alphas_cumprod_prev", t, x)
        sigma = eta * torch.sqrt((1 - before) / (1 - abar)) * torch.sqrt(1 - abar / before)
        mean = out["pred_xstart"] * before.sqrt() + torch.sqrt(1 - before - sigma**2) * eps
        return {"sample": mean + sigma * randn(x), "pred_xstart": out["pred_xstart"]}

    def ddim_reverse_sample(
        self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None, eta=0.0
    ) -> Out:
        """DDIM's step of eta 0 the other way, to x_{t+1} (Song et al. 2020, section 4.3)."""
        if eta != 0:
            raise ValueError(f"eta is {eta}; only the path without noise, eta 0, can be reversed")
        out = self._p(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        eps = self._predict_eps_from_xstart(x, t, out["pred_xstart"])
        after = self._at("alphas_cumprod_next", t, x)
        sample = out["pred_xstart"] * after.sqrt() + torch.sqrt(1 - after) * eps
        return {"sample": sample, "pred_xstart": out["pred_xstart"]}

    def dpmpp_sample(
        self,
        model,
        x,
        t,
        clip_denoised=True,
        denoised_fn=None,
        cond_fn=None,
        model_kwargs=None,
        previous_xstart=None,
    ) -> Out:
        """A step of DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); of order 1 where it must be.

        previous_xstart: pred_xstart of step t+1, from which x_0 is extrapolated to half-way; None
        at the first step. The last step, to x_0, goes without it (lower_order_final).
        """
        out = self._p(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if cond_fn is not None:
            out = self.condition_score(cond_fn, out, x, t, model_kwargs=model_kwargs)
        data = pred_xstart = out["pred_xstart"]
        if previous_xstart is not None:
            data = data + self._at("dpmpp_extrapolate", t, x) * (data - previous_xstart)
        sample = self._at("dpmpp_keep", t, x) * x + self._at("dpmpp_add", t, x) * data
        return {"sample": sample, "pred_xstart": pred_xstart}

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

    def p_sample_loop(self, *args, **kwargs) -> torch.Tensor:
        """Images [N, C, H, W]: the last sample of p_sample_loop_progressive(...)."""
        return _last(self.p_sample_loop_progressive(*args, **kwargs))

    def ddim_sample_loop(self, *args, **kwargs) -> torch.Tensor:
        """Images [N, C, H, W]: the last sample of ddim_sample_loop_progressive(...)."""
        return _last(self.ddim_sample_loop_progressive(*args, **kwargs))

    def dpmpp_sample_loop(self, *args, **kwargs) -> torch.Tensor:
        """Images [N, C, H, W]: the last sample of dpmpp_sample_loop_progressive(...)."""
        return _last(self.dpmpp_sample_loop_progressive(*args, **kwargs))

    def p_sample_loop_progressive(
        self,
        model,
        shape,
        noise=None,
        clip_denoised=True,
        denoised_fn=None,
        cond_fn=None,
        model_kwargs=None,
        device=None,
        progress=False,
        randn=torch.randn_like,
    ) -> Iterator[Out]:
        """p_sample's result at t = T-1 .. 0."""
        common = _named(clip_denoised, denoised_fn, cond_fn, model_kwargs, randn)

        def step(last, t):
            return self.p_sample(model, last["sample"], t, **common)

        return self._walk(step, model, shape, noise, device, progress)

    def ddim_sample_loop_progressive(
        self,
        model,
        shape,
        noise=None,
        clip_denoised=True,
        denoised_fn=None,
        cond_fn=None,
        model_kwargs=None,
        device=None,
        progress=False,
        eta=0.0,
        randn=torch.randn_like,
    ) -> Iterator[Out]:
        """ddim_sample's result at t = T-1 .. 0."""
        common = _named(clip_denoised, denoised_fn, cond_fn, model_kwargs, randn)

        def step(last, t):
            return self.ddim_sample(model, last["sample"], t, **common, eta=eta)

        return self._walk(step, model, shape, noise, device, progress)

    def dpmpp_sample_loop_progressive(
        self,
        model,
        shape,
        noise=None,
        clip_denoised=True,
        denoised_fn=None,
        cond_fn=None,
        model_kwargs=None,
        device=None,
        progress=False,
        randn=None,
    ) -> Iterator[Out]:
        """dpmpp_sample's result at t = T-1 .. 0; it has no use for randn, but takes it."""
        common = _named(clip_denoised, denoised_fn, cond_fn, model_kwargs)

        def step(last, t):
            previous = last.get("pred_xstart")
            return self.dpmpp_sample(model, last["sample"], t, **common, previous_xstart=previous)

        return self._walk(step, model, shape, noise, device, progress)

    p_sample_loop.__signature__ = inspect.signature(p_sample_loop_progressive)
    ddim_sample_loop.__signature__ = inspect.signature(ddim_sample_loop_progressive)
    dpmpp_sample_loop.__signature__ = inspect.signature(dpmpp_sample_loop_progressive)

    def _walk(self, step: Callable, model, shape, noise, device, progress) -> Iterator[Out]:
        """out = step(out, t) from x_T to x_0, without gradients."""
        if device is None:
            device = next(model.parameters()).device if noise is None else noise.device
        out = {"sample": torch.randn(*shape, device=device) if noise is None else noise}
        times = torch.arange(self.num_timesteps, device=device)[:, None].repeat(1, shape[0])
        for i in tqdm(range(self.num_timesteps)[::-1], disable=not progress):
            with torch.no_grad():
                out = step(out, times[i])
            yield out


def _named(clip_denoised, denoised_fn, cond_fn, model_kwargs, randn=torch.randn_like) -> dict:
    """A step's arguments, without a randn that is the default: an override may not know it."""
    common = {"clip_denoised": clip_denoised, "denoised_fn": denoised_fn, "cond_fn": cond_fn}
    given = {} if randn is torch.randn_like else {"randn": randn}
    return common | {"model_kwargs": model_kwargs} | given


def _last(outs: Iterator[Out]) -> torch.Tensor:
    for out in outs:
        sample = out["sample"]
    return sample
