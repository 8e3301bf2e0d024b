"""Two terms of the variational bound (Ho et al. 2020), elementwise and in nats.

The KL of two normals scores the steps t > 0; the likelihood of a pixel's 8-bit value under a normal
scores the last step. Neither knows of timesteps or networks.
"""

import math

import torch
from torch import Tensor


def normal_kl(mean1, logvar1, mean2, logvar2) -> Tensor:
    """KL(N(mean1, exp logvar1) || N(mean2, exp logvar2)), elementwise, in nats.

    The arguments broadcast; all but one of them may be plain numbers.
    """
    arguments = (mean1, logvar1, mean2, logvar2)
    tensor = next((a for a in arguments if isinstance(a, Tensor)), None)
    if tensor is None:
        raise ValueError(f"normal_kl needs a tensor among its arguments, got {arguments}")
    logvar1, logvar2 = (torch.as_tensor(v).to(tensor) for v in (logvar1, logvar2))
    spread = -1.0 + logvar2 - logvar1 + torch.exp(logvar1 - logvar2)
    return 0.5 * (spread + ((mean1 - mean2) ** 2) * torch.exp(-logvar2))


def approx_standard_normal_cdf(x: Tensor) -> Tensor:
    """P(Z <= x) of a standard normal Z, by a tanh; off by less than 2e-4 (Page 1977)."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def discretized_gaussian_log_likelihood(x: Tensor, *, means: Tensor, log_scales: Tensor) -> Tensor:
    """Log-probability of 8-bit values, elementwise, in nats (Ho et al. 2020, equation 13).

    x: values of uint8 scaled to [-1, 1]. A value has the normal's mass within 1/255 of it; the
    outermost two have all that is beyond them, too. Masses below 1e-12 count as 1e-12.
    """
    precision = torch.exp(-log_scales)
    below_upper = approx_standard_normal_cdf(precision * (x - means + 1.0 / 255.0))
    below_lower = approx_standard_normal_cdf(precision * (x - means - 1.0 / 255.0))
    upper_or_inner = torch.where(x > 0.999, 1.0 - below_lower, below_upper - below_lower)
    mass = torch.where(x < -0.999, below_upper, upper_or_inner)
    return mass.clamp(min=1e-12).log()


def mean_flat(tensor: Tensor) -> Tensor:
    """[N, ...] -> [N]: the mean over everything but the batch."""
    return tensor.mean(dim=tuple(range(1, tensor.ndim)))
