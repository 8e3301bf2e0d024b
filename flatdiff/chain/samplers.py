"""Samplers lead from noise to images: ancestral, DDIM and DPM-Solver++(2M), each with guidance.

A sampler is a function of a chain: a step x_t -> {"sample": x_{t-1}, "pred_xstart": x_0 as
guessed}, which `walk` takes from t = T-1 down to 0. clip_denoised, denoised_fn: as in the chain's
p_mean_variance. cond_fn(x, t, **model_kwargs): the gradient of log p(condition | x_t), t as the
network sees it. randn: called with x_t once a step, also where its noise has no weight, so that
each image can have a generator of its own.
"""

import collections
import functools
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .. import bars

Out = dict[str, Tensor]


def walk(
    chain,
    step: Callable,
    model: Callable,
    shape,
    noise=None,
    clip_denoised=True,
    denoised_fn=None,
    cond_fn=None,
    model_kwargs=None,
    device=None,
    progress=False,
    randn=torch.randn_like,
    **knobs,
) -> Iterator[Out]:
    """What the step gives at t = T-1 .. 0, without gradients; the last "sample" is x_0.

    A chain's own method of the step's name goes before the step. `noise`: x_T; None: prior_std by
    torch.randn(*shape), on `device` (default: that of the model's parameters). `knobs`: more
    arguments of the step; one that takes previous_xstart is given that of t + 1, and one that takes
    index, t as a number, for which nothing waits.
    """
    own = getattr(chain, step.__name__, None) or functools.partial(step, chain)
    given = {"clip_denoised": clip_denoised, "denoised_fn": denoised_fn, "cond_fn": cond_fn}
    given |= {"model_kwargs": model_kwargs} | knobs
    takes = inspect.signature(step).parameters
    if randn is not torch.randn_like:  # else an override need not know it
        given["randn"] = randn
    if device is None:
        device = next(model.parameters()).device if noise is None else noise.device
    if noise is None:
        noise = begun(chain, torch.randn(*shape, device=device))
    out = {"sample": noise}
    times = torch.arange(chain.num_timesteps, device=device)[:, None].repeat(1, shape[0])
    steps = range(chain.num_timesteps)[::-1]
    for i in bars.Bar(steps, unit="step") if progress else bars.shares(steps):
        if "previous_xstart" in takes:
            given["previous_xstart"] = out.get("pred_xstart")
        if "index" in takes:
            given["index"] = i
        with torch.no_grad():
            out = own(model, out["sample"], times[i], **given)
        yield out


def begun(chain, noise: Tensor) -> Tensor:
    """x_T, where a chain begins, of standard normal noise."""
    return noise if chain.prior_std == 1 else chain.prior_std * noise


def last(outs: Iterator[Out]) -> Tensor:
    """The images at the end of a walk: [N, C, H, W]."""
    (out,) = collections.deque(outs, maxlen=1)
    return out["sample"]


def loops(step: Callable, **knobs) -> tuple[Callable, Callable]:
    """guided-diffusion's two methods of a chain for a step: the images that a walk ends at, and the
    walk. `knobs`: the step's own, with their defaults."""
    common = list(inspect.signature(walk).parameters.values())[2:-1]
    own = [inspect.Parameter(k, common[0].kind, default=v) for k, v in knobs.items()]
    self = inspect.Parameter("self", common[0].kind)
    signature = inspect.Signature([self, *common[:-1], *own, common[-1]])

    def progressive(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        chain = given.pop("self")
        return walk(chain, step, **given)

    def loop(self, *args, **kwargs):
        return last(getattr(self, f"{step.__name__}_loop_progressive")(*args, **kwargs))

    progressive.__signature__ = loop.__signature__ = signature
    progressive.__doc__ = f"What {step.__name__} gives at t = T-1 .. 0."
    loop.__doc__ = f"Images [N, C, H, W]: the last sample of {step.__name__}_loop_progressive."
    return loop, progressive


def _p(chain, model, x, t, clip_denoised, denoised_fn, model_kwargs, cond_fn=None) -> Out:
    """p_mean_variance with the predicted noise divided by eps_scale, and the guided score."""

    def divided(x_t, timesteps, **model_kwargs):
        output = model(x_t, timesteps, **model_kwargs).to(x.dtype)
        eps, values = output.tensor_split([x.shape[1]], dim=1)
        return torch.cat([eps / chain._at("eps_scale", t, x), values], dim=1)

    how = {"clip_denoised": clip_denoised, "denoised_fn": denoised_fn}
    guess = divided if chain.scales_eps else model
    out = chain.p_mean_variance(guess, x, t, **how, model_kwargs=model_kwargs)
    if cond_fn is None:
        return out
    return chain.condition_score(cond_fn, out, x, t, model_kwargs=model_kwargs)


def condition_mean(chain, cond_fn, p_mean_var, x, t, model_kwargs=None) -> Tensor:
    """The mean shifted by variance * gradient (Dhariwal & Nichol 2021, algorithm 1).

    The gradient is that at x_t, not at the mean, as in guided-diffusion.
    """
    gradient = cond_fn(x, chain._scale_timesteps(t), **(model_kwargs or {}))
    return p_mean_var["mean"].float() + p_mean_var["variance"] * gradient.float()


def condition_score(chain, cond_fn, p_mean_var, x, t, model_kwargs=None) -> Out:
    """p with its noise less sigma_t * gradient (algorithm 2); x_0 is not clamped."""
    gradient = cond_fn(x, chain._scale_timesteps(t), **(model_kwargs or {}))
    eps = chain._predict_eps_from_xstart(x, t, p_mean_var["pred_xstart"])
    eps = eps - chain._at("sigmas", t, x) * gradient
    pred_xstart = chain._predict_xstart_from_eps(x, t, eps)
    mean = chain.q_posterior_mean_variance(x_start=pred_xstart, x_t=x, t=t)[0]
    return p_mean_var | {"pred_xstart": pred_xstart, "mean": mean}


def p_sample(
    chain,
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
    out = _p(chain, model, x, t, clip_denoised, denoised_fn, model_kwargs)
    noise = randn(x)
    if cond_fn is not None:
        out["mean"] = chain.condition_mean(cond_fn, out, x, t, model_kwargs=model_kwargs)
    sigma = (t != 0).view(-1, *[1] * (x.ndim - 1)) * torch.exp(0.5 * out["log_variance"])
    return {"sample": out["mean"] + sigma * noise, "pred_xstart": out["pred_xstart"]}


def ddim_sample(
    chain,
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
    """A DDIM step (Song et al. 2020, equations 12 and 16): eta 0 adds no noise, 1 as DDPM.

    ValueError for another eta than 0 .. 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; expected 0, which adds no noise, to 1, as much as DDPM")
    out = _p(chain, model, x, t, clip_denoised, denoised_fn, model_kwargs, cond_fn)
    eps = chain._predict_eps_from_xstart(x, t, out["pred_xstart"])
    abar, before = chain._at("alphas_cumprod", t, x), chain._at("alphas_cumprod_prev", t, x)
    sigma = eta * torch.sqrt((1 - before) / (1 - abar)) * torch.sqrt(1 - abar / before)
    rest = 1 - before - sigma**2
    if eta:
        rest = rest.clamp(min=0)  # below which rounding may fall
    mean = out["pred_xstart"] * before.sqrt() + rest.sqrt() * eps
    return {"sample": mean + sigma * randn(x), "pred_xstart": out["pred_xstart"]}


def ddim_reverse_sample(
    chain, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None, eta=0.0
) -> Out:
    """DDIM's step of eta 0 the other way, to x_{t+1} (Song et al. 2020, section 4.3)."""
    if eta != 0:
        raise ValueError(f"eta is {eta}; only the path without noise, eta 0, can be reversed")
    out = _p(chain, model, x, t, clip_denoised, denoised_fn, model_kwargs)
    eps = chain._predict_eps_from_xstart(x, t, out["pred_xstart"])
    after = chain._at("alphas_cumprod_next", t, x)
    sample = out["pred_xstart"] * after.sqrt() + torch.sqrt(1 - after) * eps
    return {"sample": sample, "pred_xstart": out["pred_xstart"]}


def dpmpp_sample(
    chain,
    model,
    x,
    t,
    clip_denoised=True,
    denoised_fn=None,
    cond_fn=None,
    model_kwargs=None,
    previous_xstart=None,
    randn=None,
) -> Out:
    """A step of DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); of order 1 where it must be.

    previous_xstart: pred_xstart of step t+1, from which x_0 is extrapolated to half-way; None
    at the first step. The last step, to x_0, goes without it (lower_order_final). It adds no noise.
    """
    out = _p(chain, model, x, t, clip_denoised, denoised_fn, model_kwargs, cond_fn)
    data = pred_xstart = out["pred_xstart"]
    if previous_xstart is not None:
        data = data + chain._at("dpmpp_extrapolate", t, x) * (data - previous_xstart)
    sample = chain._at("dpmpp_keep", t, x) * x + chain._at("dpmpp_add", t, x) * data
    return {"sample": sample, "pred_xstart": pred_xstart}
