"""The small parts that networks are made of: layers by number of dimensions, norms, embeddings.

Names and arguments are guided-diffusion's. Nothing here knows of images, noise or training.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

SiLU = nn.SiLU
NUM_GROUPS = 32


class GroupNorm32(nn.GroupNorm):
    """GroupNorm computed in its weights' dtype (float32, also in half networks), then cast back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def normalization(channels: int) -> GroupNorm32:
    """GroupNorm of 32 groups; ValueError when the width does not divide into them."""
    if channels % NUM_GROUPS:
        raise ValueError(
            f"a layer has {channels} channels, and GroupNorm needs a multiple of {NUM_GROUPS}: "
            "choose num_channels (or channel_mult) so that their product is one at every level"
        )
    return GroupNorm32(NUM_GROUPS, channels)


def conv_nd(dims: int, *args, **kwargs) -> nn.Module:
    """A convolution over `dims` = 1, 2 or 3 dimensions."""
    return _of_dims(dims, nn.Conv1d, nn.Conv2d, nn.Conv3d)(*args, **kwargs)


def avg_pool_nd(dims: int, *args, **kwargs) -> nn.Module:
    """An average pooling over `dims` = 1, 2 or 3 dimensions."""
    return _of_dims(dims, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)(*args, **kwargs)


def _of_dims(dims: int, *layers: type[nn.Module]) -> type[nn.Module]:
    if dims not in (1, 2, 3):
        raise ValueError(f"dims is {dims}; layers exist for 1, 2 and 3 dimensions")
    return layers[dims - 1]


def linear(*args, **kwargs) -> nn.Linear:
    return nn.Linear(*args, **kwargs)


@torch.no_grad()
def update_ema(
    target_params: Iterable[torch.Tensor],
    source_params: Iterable[torch.Tensor],
    rate: float = 0.99,
) -> None:
    """target <- rate * target + (1 - rate) * source, in place."""
    for target, source in zip(target_params, source_params, strict=True):
        target.mul_(rate).add_(source, alpha=1 - rate)


@torch.no_grad()
def zero_module(module: nn.Module) -> nn.Module:
    """The module, with all its parameters set to zero."""
    for parameter in module.parameters():
        parameter.zero_()
    return module


@torch.no_grad()
def scale_module(module: nn.Module, scale: float) -> nn.Module:
    """The module, with all its parameters multiplied by `scale`."""
    for parameter in module.parameters():
        parameter.mul_(scale)
    return module


def mean_flat(tensor: torch.Tensor) -> torch.Tensor:
    """[N, ...] -> [N]: the mean over everything but the batch."""
    return tensor.mean(dim=tuple(range(1, tensor.ndim)))


def timestep_embedding(
    timesteps: torch.Tensor, dim: int, max_period: float = 10000
) -> torch.Tensor:
    """Sinusoids of the timestep, the cosines first (Vaswani et al. 2017, section 3.5).

    timesteps: [N], may be fractional. Returns float32 [N, dim]; an odd `dim` ends with a zero.
    The frequencies fall geometrically from 1 to almost 1 / max_period.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(max_period) * exponents / half)
    angles = timesteps.float()[:, None] * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    return nn.functional.pad(embedding, (0, dim % 2))


def checkpoint(
    func: Callable, inputs: Sequence[torch.Tensor], params: Iterable[torch.Tensor], flag: bool
) -> torch.Tensor:
    """func(*inputs); with `flag`, its activations are recomputed in backward instead of kept.

    The recomputation sees the same dropout masks, and the weights as they are at backward:
    a caller that moves weights must not move them back in between. `params` is guided-diffusion's
    argument; autograd finds the parameters by itself.
    """
    if not flag:
        return func(*inputs)
    return torch.utils.checkpoint.checkpoint(func, *inputs, use_reentrant=False)


def twice_differentiable() -> AbstractContextManager:
    """A context for losses that are differentiated twice (Hessian products) or by forward mode.

    torch's fused attention kernels have a first derivative only; in here, attention is computed
    by the plain formula, which has all of them.
    """
    return sdpa_kernel(SDPBackend.MATH)
