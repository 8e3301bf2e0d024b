"""Noise levels of any family, and what a network is asked at each: image, noise, or both mixed.

    x_t = alpha_t x_0 + sigma_t eps,    target_t = to_x_t x_0 + to_eps_t eps

One axis orders all of them, the log-SNR lambda = log(alpha^2 / sigma^2) (Kingma et al. 2021):
eps-, x-, v- and flow networks and EDM's are five choices of (to_x, to_eps), so their squared errors
differ by a function of lambda alone, `x_factor`. Nothing here knows of networks but by a call.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from . import samplers
from .losses import mean_flat
from .tables import Tables

Terms = dict[str, Tensor]
SIGMA_DATA = 0.5  # standard deviation of the pixels (Karras et al. 2022, table 1)
LEAST_NOISE = 0.05  # below which an x-predicting flow's loss weighs no more (Li & He 2025)


def vp(log_snr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha^2 + sigma^2 = 1: the variance-preserving chains of DDPM."""
    return np.sqrt(_sigmoid(log_snr)), np.sqrt(_sigmoid(-log_snr))


def flow(log_snr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha + sigma = 1: straight lines from image to noise (Lipman et al. 2023)."""
    return _sigmoid(log_snr / 2), _sigmoid(-log_snr / 2)


def edm(log_snr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha = 1: noise of growing variance is added (Karras et al. 2022)."""
    return np.ones_like(log_snr), np.exp(-log_snr / 2)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


PATHS = {"vp": vp, "flow": flow, "edm": edm}
PREDICTS = {"vp": ("eps", "x", "v"), "flow": ("v", "x", "eps"), "edm": ("F", "x", "eps")}
PREDICTS |= {"any": ("x", "eps")}  # a path whose scales are given


def target(path: str, predicts: str, alphas, sigmas, sigma_data=SIGMA_DATA):
    """(to_x, to_eps) [T] of what a network predicts on a path; ValueError where there is no such.

    v: of vp, alpha eps - sigma x_0 (Salimans & Ho 2022); of flow, the velocity eps - x_0. F: what
    is inside EDM's preconditioning, (x_0 - c_skip x_t) / c_out.
    """
    if predicts not in PREDICTS.get(path, ()):
        known = "; ".join(f"{p}: {', '.join(names)}" for p, names in PREDICTS.items())
        raise ValueError(f"no network predicts {predicts!r} on {path!r}; expected {known}")
    one, zero = np.ones_like(sigmas), np.zeros_like(sigmas)
    of_edm = sigma_data / np.sqrt(sigmas**2 + sigma_data**2)
    velocity = {"vp": (-sigmas, alphas), "flow": (-one, one)}.get(path)
    return {
        "eps": (zero, one),
        "x": (one, zero),
        "v": velocity,
        "F": (sigmas / sigma_data**2 * of_edm, -of_edm),
    }[predicts]


class Levels(Tables):
    """Levels t = 0 .. T-1, for networks called as (x_scale_t x_t, times_t, **model_kwargs).

    log_snr: [T], falling where images are to be sampled. path: a name of PREDICTS. predicts: one of
    its. scales: (alphas [T], sigmas [T]) that are not those of the path at log_snr, as where alpha
    is 0. times: [T], what the network is told; by default sigma, of F log(sigma) / 4, and of vp the
    level's index. density: [T], how often training visits a level; None: each alike. loss_weight:
    [T], of a squared error in the loss; None: 1, but EDM's for a denoiser on its path, and that of
    a velocity, sigma^-2, for an x-predicting flow. sigma_data: EDM's. input_pertub, eps_scaler: as
    in GaussianDiffusion. use_timesteps: the levels that are kept; all else counts from these.
    """

    def __init__(
        self,
        log_snr: Sequence[float],
        path: str,
        predicts: str,
        *,
        scales: tuple[Sequence[float], Sequence[float]] | None = None,
        times: Sequence[float] | None = None,
        density: Sequence[float] | None = None,
        loss_weight: Sequence[float] | None = None,
        sigma_data: float = SIGMA_DATA,
        input_pertub: float = 0.0,
        eps_scaler: float = 1.0,
        eps_scaler_slope: float = 0.0,
        use_timesteps: Sequence[int] | None = None,
    ):
        super().__init__()
        if input_pertub < 0:
            raise ValueError(f"input_pertub is {input_pertub}; it must not be negative (0: off)")
        self.path, self.predicts, self.sigma_data = path, predicts, sigma_data
        self.original_num_steps, self.input_pertub = len(log_snr), input_pertub
        kept = range(len(log_snr)) if use_timesteps is None else use_timesteps
        self.timestep_map = sorted(kept)
        log_snr = np.array(log_snr, np.float64)
        given = {"times": times, "density": density, "loss_weight": loss_weight}
        told = self._of_levels(log_snr, scales) | {k: v for k, v in given.items() if v is not None}
        for name, values in told.items():
            setattr(self, name, np.asarray(values)[self.timestep_map])
        self.num_timesteps = len(self.timestep_map)
        with np.errstate(divide="ignore", invalid="ignore"):  # where levels have no order
            self._follow()
        self._set_eps_scale(eps_scaler, eps_scaler_slope, predicts)

    def _follow(self) -> None:
        """Coefficients of the kept levels: of x_0 as guessed, of p, and of DPM-Solver++."""
        alphas, sigmas = self.alphas, self.sigmas
        self.prior_std = float(sigmas[-1])
        self.alphas_prev = before = np.append(1.0, alphas[:-1])
        self.sigmas_prev = less = np.append(0.0, sigmas[:-1])
        determinant = alphas * self.to_eps - sigmas * self.to_x
        self.x_of_x_t, self.x_of_output = self.to_eps / determinant, -sigmas / determinant
        self.x_factor = self.x_of_output**2
        added = 1 - (alphas / before * less / sigmas) ** 2  # of sigma_t^2, since t-1
        self.mean_of_x, self.mean_of_x_t = before * added, alphas / before * (less / sigmas) ** 2
        self.variance = less**2 * added
        self.log_variance = np.log(np.append(self.variance[:2][-1:], self.variance[1:]))
        self.dpmpp_keep = less / sigmas
        self.dpmpp_add = before - self.dpmpp_keep * alphas
        h = -np.diff(self.log_snr)
        self.dpmpp_extrapolate = np.concatenate([[0.0], h[:-1] / (2 * h[1:]), [0.0]])[: len(alphas)]

    def _of_levels(self, log_snr: np.ndarray, scales) -> dict[str, np.ndarray]:
        """What follows from lambda alone, or from the scales."""
        alphas, sigmas = map(np.float64, scales or PATHS.get(self.path, vp)(log_snr))
        to_x, to_eps = target(self.path, self.predicts, alphas, sigmas, self.sigma_data)
        found = {"alphas": alphas, "sigmas": sigmas, "to_x": to_x, "to_eps": to_eps}
        found |= {"times": np.arange(len(sigmas)) if self.path == "vp" else sigmas}
        found |= {"x_scale": np.ones_like(sigmas), "loss_weight": np.ones_like(sigmas)}
        total = sigmas**2 + self.sigma_data**2
        if self.predicts == "F":
            found |= {"times": np.log(sigmas) / 4, "x_scale": 1 / np.sqrt(total)}
        elif (self.path, self.predicts) == ("edm", "x"):
            found["loss_weight"] = total / (sigmas * self.sigma_data) ** 2
        elif (self.path, self.predicts) == ("flow", "x"):
            found["loss_weight"] = np.maximum(sigmas, LEAST_NOISE) ** -2.0
        return found

    # how noise walks back
    condition_mean = samplers.condition_mean
    condition_score = samplers.condition_score

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_t = alpha_t x_0 + sigma_t noise."""
        noise = torch.randn_like(x_start) if noise is None else noise
        return self._at("alphas", t, x_start) * x_start + self._at("sigmas", t, x_start) * noise

    def guess(self, model: Callable, x: Tensor, t: Tensor, model_kwargs: dict | None) -> Tensor:
        """The network's output, shaped as x and in its dtype; ValueError if it is not so shaped."""
        seen = self._at("x_scale", t, x) * x
        output = model(seen, self._scale_timesteps(t), **(model_kwargs or {})).to(x.dtype)
        if output.shape != x.shape:
            raise ValueError(
                f"the network gives {tuple(output.shape)} where {tuple(x.shape)} is expected: one "
                f"that predicts {self.predicts} on the path {self.path!r} has no variance to learn "
                "(learn_sigma False)"
            )
        return output

    def training_losses(
        self,
        model: Callable,
        x_start: Tensor,
        t: Tensor,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
        input_noise: Tensor | None = None,
    ) -> Terms:
        """Per-image terms [N]: mse, of the output from its target; loss, loss_weight times that.

        noise, input_noise: as in GaussianDiffusion.training_losses.
        """
        noise = torch.randn_like(x_start) if noise is None else noise
        output = self.guess(
            model, self.q_sample(x_start, t, self._seen(noise, input_noise)), t, model_kwargs
        )
        wanted = self._at("to_x", t, output) * x_start + self._at("to_eps", t, output) * noise
        mse = mean_flat((wanted - output) ** 2)
        return {"mse": mse, "loss": self._at("loss_weight", t, mse) * mse}

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

        p is q(x_{t-1} | x_t, x_0) at the x_0 that the output implies, clamped if asked.
        """
        output = self.guess(model, x, t, model_kwargs)
        pred_xstart = self._at("x_of_x_t", t, x) * x + self._at("x_of_output", t, x) * output
        if denoised_fn is not None:
            pred_xstart = denoised_fn(pred_xstart)
        if clip_denoised:
            pred_xstart = pred_xstart.clamp(-1, 1)
        mean = self.q_posterior_mean_variance(pred_xstart, x, t)[0]
        spread = (self._at(n, t, x).expand_as(x) for n in ("variance", "log_variance"))
        spread = dict(zip(("variance", "log_variance"), spread))
        return {"mean": mean, "pred_xstart": pred_xstart} | spread

    def q_posterior_mean_variance(self, x_start: Tensor, x_t: Tensor, t: Tensor):
        """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0)."""
        mean = self._at("mean_of_x", t, x_t) * x_start + self._at("mean_of_x_t", t, x_t) * x_t
        names = ("variance", "log_variance")
        return mean, *(self._at(name, t, x_t).expand_as(x_t) for name in names)

    def ddim_sample(
        self,
        model: Callable,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable | None = None,
        cond_fn: Callable | None = None,
        model_kwargs: dict | None = None,
        eta: float = 0.0,
        randn: Callable = torch.randn_like,
    ) -> Terms:
        """A DDIM step (Song et al. 2020, equation 12) on this path; eta 0 is Euler's step."""
        out = samplers._p(self, model, x, t, clip_denoised, denoised_fn, model_kwargs, cond_fn)
        eps = self._predict_eps_from_xstart(x, t, out["pred_xstart"])
        variance = eta**2 * self._at("variance", t, x)
        mean = self._at("alphas_prev", t, x) * out["pred_xstart"]
        mean = mean + (self._at("sigmas_prev", t, x) ** 2 - variance).clamp(min=0).sqrt() * eps
        sample = mean + variance.sqrt() * randn(x)
        return {"sample": sample, "pred_xstart": out["pred_xstart"]}

    def _predict_eps_from_xstart(self, x_t: Tensor, t: Tensor, pred_xstart: Tensor) -> Tensor:
        """The noise with which q_sample makes x_t of pred_xstart."""
        rest = x_t - self._at("alphas", t, x_t) * pred_xstart
        return rest / self._at("sigmas", t, x_t)

    def _predict_xstart_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The x_0 of which q_sample makes x_t with eps."""
        return (x_t - self._at("sigmas", t, x_t) * eps) / self._at("alphas", t, x_t)

    def calc_bpd_loop(self, *_, **__):
        """Refuse: the bound of `nll` is that of a chain that learns, or fixes, its variance."""
        raise ValueError("bits per dimension are defined for --objective ddpm alone")

    def _wrap_model(self, model: Callable) -> Callable:
        return model

    def _scale_timesteps(self, t: Tensor) -> Tensor:
        """What the network, or cond_fn, is told of t [N]."""
        return self._table("times", t.device)[t]
