"""A sampler that asks the network at another timestep: the one whose noise its input looks like.

Li et al. 2024, "Alleviating exposure bias in diffusion models through sampling with shifted time
steps", section 3.3: of the timesteps within half a window of t, that whose 1 - abar is nearest to
the variance of x_t over its pixels. What is not taken from there: the network alone is asked at
it, and DDIM's coefficients stay those of t.
"""

import torch
from torch import Tensor

from .samplers import Out, ddim_sample


def shifted_sample(chain, model, x, t, window: int = 30, cutoff: int = 200, **how) -> Out:
    """DDIM's step of eta 0; t is shifted from the second step on, where it is above `cutoff`.

    window: timesteps of the whole chain, t in their middle; 0: none is shifted. cutoff: where x_t
    is mostly image its variance tells no noise. ValueError as of `must_shift`.
    """
    must_shift(chain, window, cutoff)
    shift = shifts(chain, x, t, window, cutoff)
    if chain.rescale_timesteps:
        shift = shift.float() * (1000.0 / chain.original_num_steps)

    def asked(x_t, timesteps, **kwargs):
        return model(x_t, timesteps + shift, **kwargs)

    return ddim_sample(chain, asked, x, t, **how)


def must_shift(chain, window: int, cutoff: int) -> None:
    """ValueError for a chain that is none of betas, and for one without a timestep to shift."""
    if not hasattr(chain, "every_alphas_cumprod"):
        raise ValueError(
            "the sampler shifted is for --objective ddpm, whose noise has the variance 1 - abar: "
            "take another"
        )
    steps = len(chain.every_alphas_cumprod)
    if window < 0 or cutoff >= steps - 2:
        raise ValueError(
            f"the sampler shifted has window {window} and cutoff {cutoff}; expected a window of 0 "
            f"or more, and a cutoff below {steps - 2}, above which the chain of {steps} has "
            "timesteps to shift (200 is of a chain of 1000)"
        )


def shifts(chain, x: Tensor, t: Tensor, window: int, cutoff: int) -> Tensor:
    """By how many timesteps of the whole chain each image of x [N, ...] is moved: int64 [N]."""
    here = chain._table("timestep_map", t.device)[t]  # [N]
    noise = 1 - chain._table("every_alphas_cumprod", t.device)  # [T]
    near = here[:, None] + torch.arange(-(window // 2), window // 2 + 1, device=t.device)
    inside = (near >= 0) & (near < len(noise))
    variance = x.float().flatten(1).var(dim=1)
    apart = (noise[near.clamp(0, len(noise) - 1)] - variance[:, None]).abs()
    apart = apart.masked_fill(~inside, torch.inf)
    found = near.gather(1, apart.argmin(1, keepdim=True))[:, 0] - here
    moved = (t < chain.num_timesteps - 1) & (here > cutoff)
    return torch.where(moved, found, torch.zeros_like(found))
