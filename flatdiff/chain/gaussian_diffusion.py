"""A diffusion: p walks back, by a network's guess, from noise to images (Ho et al. 2020).

    p(x_{t-1} | x_t) = N(mean, variance), both from the network's output at (x_t, t)

Here p is read off the output, and scored: training losses, bits per dimension. How images were
noised is in noising.py, how p is walked in samplers.py. A network is any callable
(x_t, t, **model_kwargs) -> tensor. Names and arguments are guided-diffusion's.
"""

import enum
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .. import bars
from . import samplers
from .losses import discretized_gaussian_log_likelihood, mean_flat, normal_kl
from .noising import Noising, _extract_into_tensor, betas_for_alpha_bar, get_named_beta_schedule

__all__ = ["GaussianDiffusion", "LossType", "ModelMeanType", "ModelVarType"]
__all__ += ["_extract_into_tensor", "betas_for_alpha_bar", "get_named_beta_schedule"]

Terms = dict[str, Tensor]
Guess = tuple[Tensor, Tensor | None]  # what is predicted, and what says the variance


class ModelMeanType(enum.Enum):
    """What the network predicts."""

    PREVIOUS_X = enum.auto()  # x_{t-1}
    START_X = enum.auto()  # x_0
    EPSILON = enum.auto()  # the noise in x_t
    VELOCITY = enum.auto()  # sqrt(abar) noise - sqrt(1 - abar) x_0 (Salimans & Ho 2022)


class ModelVarType(enum.Enum):
    """What says the variance of p."""

    LEARNED = enum.auto()  # the network's second half is its logarithm
    FIXED_SMALL = enum.auto()  # the posterior's
    FIXED_LARGE = enum.auto()  # beta
    LEARNED_RANGE = enum.auto()  # the second half, -1 .. 1, says where between these two


class LossType(enum.Enum):
    """What training_losses calls the loss."""

    MSE = enum.auto()  # mse, and vb where the variance is learned
    RESCALED_MSE = enum.auto()  # the same, vb times T / 1000
    KL = enum.auto()  # vb
    RESCALED_KL = enum.auto()  # vb times T, an estimate of the whole bound

    def is_vb(self) -> bool:
        return self in (LossType.KL, LossType.RESCALED_KL)


FIXED_VARIANCES = {
    ModelVarType.FIXED_SMALL: ("posterior_variance", "posterior_log_variance_clipped"),
    ModelVarType.FIXED_LARGE: ("large_variance", "large_log_variance"),
}


class GaussianDiffusion(Noising):
    """A chain over images x [N, C, ...] in [-1, 1], with t [N] int64.

    betas: [T], two or more, each in (0, 1). rescale_timesteps: the network sees t * 1000 / T.
    eps_scaler, eps_scaler_slope: in the samplers alone, the predicted noise is divided by
    eps_scaler + eps_scaler_slope * t (epsilon scaling, Ning et al. 2024); 1 and 0 are off.
    input_pertub: in training alone, x_t is made with noise + input_pertub * N(0, I), while the
    target stays noise (input perturbation, Ning et al. 2023); 0 is off.
    """

    def __init__(
        self,
        *,
        betas,
        model_mean_type: ModelMeanType,
        model_var_type: ModelVarType,
        loss_type: LossType,
        rescale_timesteps: bool = False,
        eps_scaler: float = 1.0,
        eps_scaler_slope: float = 0.0,
        input_pertub: float = 0.0,
    ):
        super().__init__(betas)
        self.model_mean_type, self.model_var_type = model_mean_type, model_var_type
        self.loss_type, self.rescale_timesteps = loss_type, rescale_timesteps
        self.input_pertub = input_pertub
        self.log_betas = np.log(self.betas)
        self.large_variance = np.append(self.posterior_variance[1], self.betas[1:])
        self.large_log_variance = np.log(self.large_variance)
        self._set_eps_scale(eps_scaler, eps_scaler_slope, model_mean_type.name)
        if input_pertub < 0:
            raise ValueError(f"input_pertub is {input_pertub}; it must not be negative (0: off)")

    # how noise walks back, of which each method may be replaced
    condition_mean = samplers.condition_mean
    condition_score = samplers.condition_score
    p_sample = samplers.p_sample
    ddim_sample = samplers.ddim_sample
    ddim_reverse_sample = samplers.ddim_reverse_sample
    dpmpp_sample = samplers.dpmpp_sample
    p_sample_loop, p_sample_loop_progressive = samplers.loops(p_sample)
    ddim_sample_loop, ddim_sample_loop_progressive = samplers.loops(ddim_sample, eta=0.0)
    dpmpp_sample_loop, dpmpp_sample_loop_progressive = samplers.loops(dpmpp_sample)

    @property
    def x_factor(self) -> np.ndarray:
        """[T]: the squared error of the x_0 that an output implies, over that of the output."""
        if self.model_mean_type is ModelMeanType.START_X:
            return np.ones(self.num_timesteps)
        if self.model_mean_type is ModelMeanType.EPSILON:
            return self.sqrt_recipm1_alphas_cumprod**2
        if self.model_mean_type is ModelMeanType.VELOCITY:
            return self.sigmas**2
        return self.posterior_mean_coef1**-2.0

    def p_mean_variance(
        self,
        model: Callable,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable | None = None,
        model_kwargs: dict | None = None,
    ) -> Terms:
        """mean, variance, log_variance of p(x_{t-1} | x_t), and pred_xstart, each shaped as x.

        pred_xstart, the x_0 that the output implies, goes through denoised_fn, if there is one, and
        with clip_denoised is clamped to [-1, 1]; the mean follows from the result.
        """
        prediction, values = self._guess(model, x, t, model_kwargs)
        spread = dict(zip(("variance", "log_variance"), self._variance(values, x, t)))
        if self.model_mean_type is ModelMeanType.EPSILON:
            pred_xstart = self._predict_xstart_from_eps(x, t, prediction)
        elif self.model_mean_type is ModelMeanType.START_X:
            pred_xstart = prediction
        elif self.model_mean_type is ModelMeanType.VELOCITY:
            pred_xstart = self._predict_xstart_from_v(x, t, prediction)
        else:
            pred_xstart = self._predict_xstart_from_xprev(x, t, prediction)
        if denoised_fn is not None:
            pred_xstart = denoised_fn(pred_xstart)
        if clip_denoised:
            pred_xstart = pred_xstart.clamp(-1, 1)
        if self.model_mean_type is ModelMeanType.PREVIOUS_X:
            mean = prediction
        else:
            mean = self.q_posterior_mean_variance(x_start=pred_xstart, x_t=x, t=t)[0]
        return {"mean": mean, "pred_xstart": pred_xstart} | spread

    def training_losses(
        self,
        model: Callable,
        x_start: Tensor,
        t: Tensor,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
        input_noise: Tensor | None = None,
    ) -> Terms:
        """Per-image terms [N]: loss; of the MSE types also mse, and vb where variance is learned.

        noise: that of x_t, drawn when None. input_noise: what input_pertub multiplies; drawn when
        None and wanted. vb is in bits per dimension. It trains the variance alone: beside an mse,
        its mean is held fixed (Nichol & Dhariwal 2021, section 3.1).
        """
        noise = torch.randn_like(x_start) if noise is None else noise
        x_t = self.q_sample(x_start, t, self._seen(noise, input_noise))
        bound = {"x_start": x_start, "x_t": x_t, "t": t, "clip_denoised": False}
        if self.loss_type.is_vb():
            vb = self._vb_terms_bpd(model, **bound, model_kwargs=model_kwargs)["output"]
            rescaled = self.loss_type is LossType.RESCALED_KL
            return {"loss": vb * self.num_timesteps if rescaled else vb}
        prediction, values = self._guess(model, x_t, t, model_kwargs)
        terms = {}
        if values is not None:
            held = torch.cat([prediction.detach(), values], dim=1)
            vb = self._vb_terms_bpd(lambda *args, **kwargs: held, **bound)["output"]
            rescaled = self.loss_type is LossType.RESCALED_MSE
            terms["vb"] = vb * (self.num_timesteps / 1000.0) if rescaled else vb
        terms["mse"] = mean_flat((self._target(x_start, x_t, t, noise) - prediction) ** 2)
        terms["loss"] = sum(terms.values())
        return terms

    def _target(self, x_start: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network should predict at x_t, shaped as x_t."""
        if self.model_mean_type is ModelMeanType.PREVIOUS_X:
            return self.q_posterior_mean_variance(x_start=x_start, x_t=x_t, t=t)[0]
        if self.model_mean_type is ModelMeanType.VELOCITY:
            return self._at("alphas", t, noise) * noise - self._at("sigmas", t, noise) * x_start
        return noise if self.model_mean_type is ModelMeanType.EPSILON else x_start

    @torch.no_grad()
    def calc_bpd_loop(
        self,
        model: Callable,
        x_start: Tensor,
        clip_denoised: bool = True,
        model_kwargs: dict | None = None,
        randn: Callable = torch.randn_like,
        at_once: int = 1,
    ) -> Terms:
        """The variational bound in bits per dimension, term by term.

        vb, xstart_mse, mse: [N, T], from t = T-1 down to 0, with fresh noise (from `randn`, called
        with x_start) at each; prior_bpd: [N], the KL of x_T from N(0, I); total_bpd: [N], the sum
        of vb and prior_bpd. mse is that of the noise which the clamped pred_xstart implies.
        at_once: timesteps in a call of the network; they change nothing but rounding.
        """
        n, columns = len(x_start), {"vb": [], "xstart_mse": [], "mse": []}
        times = torch.arange(self.num_timesteps, device=x_start.device).flip(0).split(at_once)
        for steps in bars.shares(times):
            t, x_0 = steps.repeat_interleave(n), _repeated(x_start, len(steps))
            noise = torch.cat([randn(x_start) for _ in steps])
            given = {k: _repeated(v, len(steps)) for k, v in (model_kwargs or {}).items()}
            x_t = self.q_sample(x_0, t, noise)
            terms = self._vb_terms_bpd(model, x_0, x_t, t, clip_denoised, given)
            eps = self._predict_eps_from_xstart(x_t, t, terms["pred_xstart"])
            columns["vb"].append(terms["output"])
            columns["xstart_mse"].append(mean_flat((terms["pred_xstart"] - x_0) ** 2))
            columns["mse"].append(mean_flat((eps - noise) ** 2))
        terms = {name: torch.cat(column).view(-1, n).T for name, column in columns.items()}
        prior_bpd = self._prior_bpd(x_start)
        return {"total_bpd": terms["vb"].sum(dim=1) + prior_bpd, "prior_bpd": prior_bpd, **terms}

    def _prior_bpd(self, x_start: Tensor) -> Tensor:
        """[N]: KL(q(x_T | x_0) || N(0, I)), in bits per dimension; no network can lessen it."""
        t = torch.full((len(x_start),), self.num_timesteps - 1, device=x_start.device)
        mean, _, log_variance = self.q_mean_variance(x_start, t)
        return mean_flat(normal_kl(mean, log_variance, 0.0, 0.0)) / math.log(2.0)

    def _vb_terms_bpd(
        self,
        model: Callable,
        x_start: Tensor,
        x_t: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        model_kwargs: dict | None = None,
    ) -> Terms:
        """output: the bound's term at t, [N] in bits per dimension; and pred_xstart."""
        how = {"clip_denoised": clip_denoised, "model_kwargs": model_kwargs}
        p = self.p_mean_variance(model, x_t, t, **how)
        mean, _, log_variance = self.q_posterior_mean_variance(x_start=x_start, x_t=x_t, t=t)
        kl = normal_kl(mean, log_variance, p["mean"], p["log_variance"])
        log_likelihood = discretized_gaussian_log_likelihood(
            x_start, means=p["mean"], log_scales=0.5 * p["log_variance"]
        )
        nats = torch.where(t == 0, -mean_flat(log_likelihood), mean_flat(kl))
        return {"output": nats / math.log(2.0), "pred_xstart": p["pred_xstart"]}

    def _wrap_model(self, model: Callable) -> Callable:
        """The network, or cond_fn, as a function of this chain's t; see respace."""
        return model

    def _scale_timesteps(self, t: Tensor) -> Tensor:
        """t [N] as the network and cond_fn see it."""
        return t.float() * (1000.0 / self.num_timesteps) if self.rescale_timesteps else t

    def _guess(self, model: Callable, x: Tensor, t: Tensor, model_kwargs: dict | None) -> Guess:
        """The network's output, cut in two where the variance is learned, in the dtype of x."""
        output = model(x, self._scale_timesteps(t), **(model_kwargs or {})).to(x.dtype)
        learned = self.model_var_type in (ModelVarType.LEARNED, ModelVarType.LEARNED_RANGE)
        channels = x.shape[1]
        wanted = (len(x), channels * (2 if learned else 1), *x.shape[2:])
        if output.shape != wanted:
            raise ValueError(
                f"the network gives {tuple(output.shape)} where {wanted} is expected: the variance "
                f"type {self.model_var_type.name} (learn_sigma) does not fit this network"
            )
        return output.split(channels, dim=1) if learned else (output, None)

    def _variance(self, values: Tensor | None, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """p's variance and its logarithm, shaped as x."""
        if self.model_var_type in FIXED_VARIANCES:
            names = FIXED_VARIANCES[self.model_var_type]
            return tuple(self._at(name, t, x).expand_as(x) for name in names)
        if self.model_var_type is ModelVarType.LEARNED_RANGE:
            share, low = (values + 1.0) / 2.0, self._at("posterior_log_variance_clipped", t, x)
            values = share * self._at("log_betas", t, x) + (1.0 - share) * low
        return values.exp(), values


def _repeated(value, count: int):
    """A tensor [N, ...] -> [count N, ...], the whole of it again and again; else as it is."""
    many = torch.is_tensor(value) and count > 1
    return value.repeat(count, *[1] * (value.ndim - 1)) if many else value
