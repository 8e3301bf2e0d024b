"""A network that knows its data, independent normal pixels, exactly; and what its chain does."""

import numpy as np
import torch
from chains import chain
from scipy import special

from flatdiff.chain.gaussian_diffusion import ModelVarType
from flatdiff.measure import exposure_bias as eb

N, SHAPE, D = 400, (3, 4, 4), 48
MEAN, VARIANCE = 0.2, 0.25  # of the data's pixels
T = 40


class Exact:
    """The best guess of the noise for independent pixels N(mean, variance), times `scale`.

    E[noise | x_t] = sqrt(1 - abar) (x_t - sqrt(abar) mean) / (abar variance + 1 - abar)
    """

    def __init__(self, diffusion, mean=MEAN, variance=VARIANCE, scale=1.0):
        self.mean, self.variance, self.scale = mean, variance, scale
        self.abar = torch.from_numpy(diffusion.alphas_cumprod)

    def __call__(self, x, t):
        abar = self.abar[t].view(-1, 1, 1, 1)
        signal = abar.sqrt() * self.mean
        eps = (1 - abar).sqrt() * (x - signal) / (abar * self.variance + 1 - abar)
        return (self.scale * eps).float()


def steps(num_steps=T, **kwargs):
    return chain(steps=num_steps, var=ModelVarType.FIXED_SMALL, **kwargs)


def batch(x_start, seed=1):
    def stream():
        generator = torch.Generator().manual_seed(seed)
        return lambda x: torch.randn(x.shape, generator=generator)

    return eb.Batch(x_start, stream, torch.zeros(len(x_start), dtype=torch.int64), {})


def gaussian_data(n=N):
    noise = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))
    return batch(MEAN + VARIANCE**0.5 * noise)


def measured(model, d, batches, priors=(eb.NORMAL,), **how):
    """All that there is to measure of a network, without ranks and files."""
    parts = eb.parts(model, d, batches, priors, torch.cat, **how)
    return eb.measured([part() for part in parts.values()], priors)


def chi_mean(offset=0.0):
    """E of the norm of D numbers N(offset, 1)."""
    central = np.sqrt(2) * np.exp(special.gammaln((D + 1) / 2) - special.gammaln(D / 2))
    return central * special.hyp1f1(-0.5, D / 2, -D * np.asarray(offset) ** 2 / 2)


def moments(d, mean, variance, scale=1.0, divisor=1.0, cov=0.0):
    """Mean, variance, covariance with x_start of a pixel of x_{T-1} .. x_0 and of the image.

    `scale` times the exact guess, divided by `divisor`, makes each step of the chain linear in x.
    """
    rows = [(mean, variance, cov)]
    for t in reversed(range(d.num_timesteps)):
        abar = d.alphas_cumprod[t]
        slope = scale / divisor * (1 - abar) / (abar * VARIANCE + 1 - abar)
        factor = d.posterior_mean_coef1[t] * (1 - slope) / abar**0.5 + d.posterior_mean_coef2[t]
        mean = factor * mean + d.posterior_mean_coef1[t] * slope * MEAN
        variance = factor**2 * variance + d.posterior_variance[t]
        cov = factor * cov
        rows.append((mean, variance, cov))
    return np.array(rows[::-1]).T  # the image first, then x_0 .. x_{T-1}


def guess_factor(d, scale=1.0):
    abar = d.alphas_cumprod
    return scale * np.sqrt(1 - abar) / (abar * VARIANCE + 1 - abar)


def sampling_curve(d, scale=1.0, divisor=1.0):
    mean, variance, _ = moments(d, 0.0, 1.0, scale, divisor)[:, 1:]
    offset = (mean - d.sqrt_alphas_cumprod * MEAN) / np.sqrt(variance)
    return guess_factor(d, scale) * np.sqrt(variance) * chi_mean(offset)


def training_curve(d, scale=1.0):
    abar = d.alphas_cumprod
    return guess_factor(d, scale) * np.sqrt(abar * VARIANCE + 1 - abar) * chi_mean()
