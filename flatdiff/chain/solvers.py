"""Euler's and Heun's steps along the probability flow, on the path of any chain.

    x_t = alpha_t x_0 + sigma_t eps,    d(x / alpha) = eps d(sigma / alpha)

and on straight paths, where alpha = 1 - sigma, dx = (eps - x_0) dsigma. Both add no noise. They are
steps as in `samplers`, with the same arguments.
"""

from .samplers import Out, _p


def euler_sample(chain, model, x, t, randn=None, **how) -> Out:
    """Along the slope at x_t: whatever the path, DDIM's step of eta 0. how: as `_slope`."""
    return _euler(chain, x, t, *_slope(chain, model, x, t, **how))


def heun_sample(chain, model, x, t, randn=None, index=None, **how) -> Out:
    """Along the mean of the slopes at both ends of Euler's step (Karras et al. 2022, algorithm 1).

    Some steps are Euler's: the last, one that begins at more noise than `tables.MOST_NOISE`, and
    one to little noise where the network predicts x_0, of which the slope there says nothing.
    index: t as a number, where all are the same; None: it is looked up, for which a GPU waits.
    """
    x_start, eps = _slope(chain, model, x, t, **how)
    out, half = _euler(chain, x, t, x_start, eps), chain._at("heun_half", t, x)
    if not (half.any() if index is None else chain.heun_half[index]):
        return out
    there, then = _slope(chain, model, out["sample"], (t - 1).clamp(min=0), **how)
    bend = then - eps
    if chain.path == "flow":
        bend = bend - (there - x_start)
    return out | {"sample": out["sample"] + half * bend}


def _slope(
    chain, model, x, t, clip_denoised=True, denoised_fn=None, cond_fn=None, model_kwargs=None
):
    """(x_0, eps) as guessed at x_t: the slope is made of them."""
    how = clip_denoised, denoised_fn, model_kwargs, cond_fn
    x_start = _p(chain, model, x, t, *how)["pred_xstart"]
    return x_start, chain._predict_eps_from_xstart(x, t, x_start)


def _euler(chain, x, t, x_start, eps) -> Out:
    """x_{t-1} with the same x_0 and eps."""
    sample = chain._at("alphas_prev", t, x) * x_start + chain._at("sigmas_prev", t, x) * eps
    return {"sample": sample, "pred_xstart": x_start}
