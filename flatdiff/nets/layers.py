"""The small parts that networks are made of: layers by number of dimensions, norms, embeddings.

Names and arguments are guided-diffusion's. Nothing here knows of images, noise or training.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.modules import module as modules

from ..kernels import calls, norm

SiLU = nn.SiLU
NUM_GROUPS = 32
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
GLOBAL_HOOKS = (
    modules._global_forward_pre_hooks,
    modules._global_forward_hooks,
    modules._global_backward_pre_hooks,
    modules._global_backward_hooks,
)


class GroupNorm32(nn.GroupNorm):
    """GroupNorm computed in its weights' dtype (float32, also in half networks), then cast back.

    What follows it in a network can be asked for at once, and is then one pass over the image
    where `kernels` has one: scale and shift (FiLM), SiLU, and dropout.
    """

    def forward(
        self, x: Tensor, film: Tensor | None = None, silu: bool = False, dropout: float = 0.0
    ) -> Tensor:
        """x: [N, C, *spatial] -> drop(silu(norm(x) * (1 + scale) + shift)).

        film: [N, 2 C], scale then shift. dropout: the probability of a zero, whether in training
        or not.
        """
        if norm.takes(x, self.weight, film):
            parameters = self.num_groups, self.weight, self.bias, self.eps
            return norm.normalize(x, *parameters, film, silu, dropout)
        h = super().forward(x.to(self.weight.dtype)).to(x.dtype)
        h = h if film is None else modulate(h, film)
        h = nn.functional.silu(h) if silu else h
        return nn.functional.dropout(h, dropout) if dropout else h


def modulate(h: Tensor, film: Tensor) -> Tensor:
    """h * (1 + scale) + shift; h: [N, C, *spatial], film: [N, 2 C], scale then shift (FiLM)."""
    scale, shift = film.view(*film.shape, *[1] * (h.ndim - 2)).chunk(2, dim=1)
    return h * (1 + scale) + shift


def is_stock(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the module is no more than `kind`'s forward: no subclass, no hook, no patch.

    Only then may what it does be done together with what its neighbours do.
    """
    hooks = module._forward_pre_hooks, module._forward_hooks
    hooks += module._backward_pre_hooks, module._backward_hooks
    changed = any(hooks) or any(GLOBAL_HOOKS) or "forward" in module.__dict__
    return type(module) is kind and not changed


def run_layers(layers: Iterable[nn.Module], x: Tensor, film: Tensor | None = None) -> Tensor:
    """The layers one after the other, FiLM after the first.

    A norm, a SiLU and a dropout are one pass.
    """
    first, *rest = layers
    if rest and is_stock(first, GroupNorm32) and is_stock(rest[0], SiLU):
        _, *rest = rest
        dropout = 0.0
        if rest and is_stock(rest[0], nn.Dropout):
            dropout, rest = rest[0].p if rest[0].training else 0.0, rest[1:]
        x = first(x, film=film, silu=True, dropout=dropout)
    else:
        x = first(x)
        x = x if film is None else modulate(x, film)
    for layer in rest:
        x = layer(x)
    return x


class Layers(nn.Sequential):
    """A Sequential whose first layers, if a norm and a SiLU, are one pass over the image."""

    def forward(self, x: Tensor) -> Tensor:
        return run_layers(self, x)


def normalization(channels: int) -> GroupNorm32:
    """GroupNorm of 32 groups; ValueError when the width does not divide into them."""
    if channels % NUM_GROUPS:
        raise ValueError(
            f"a layer has {channels} channels, and GroupNorm needs a multiple of {NUM_GROUPS}: "
            "choose num_channels (or channel_mult) so that their product is one at every level"
        )
    return GroupNorm32(NUM_GROUPS, channels)


class Conv2d(nn.Conv2d):
    """A convolution; on a CPU, a 3x3 one of a large image is Winograd's where `kernels` has it."""

    def forward(self, x: Tensor) -> Tensor:
        if calls.takes_conv(self, x):
            return calls.convolve(x, self.weight, self.bias)
        return super().forward(x)


def conv_nd(dims: int, *args, **kwargs) -> nn.Module:
    """A convolution over `dims` = 1, 2 or 3 dimensions."""
    return _of_dims(dims, nn.Conv1d, Conv2d, nn.Conv3d)(*args, **kwargs)


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
    target_params: Iterable[Tensor], source_params: Iterable[Tensor], rate: float = 0.99
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


def check_labels(y: Tensor | None, num_classes: int | None) -> None:
    """ValueError unless labels y were given exactly to a network with classes."""
    if y is None and num_classes is not None:
        raise ValueError(f"a network of {num_classes} classes needs the labels y, got None")
    if y is not None and num_classes is None:
        raise ValueError("labels y were given to a network without classes (class_cond False)")


def timestep_embedding(
    timesteps: Tensor, dim: int, max_period: float = 10000, shift: int = 0
) -> Tensor:
    """Sinusoids of the timestep, the cosines first (Vaswani et al. 2017, section 3.5).

    timesteps: [N], may be fractional. Returns float32 [N, dim]; an odd `dim` ends with a zero.
    The frequencies fall geometrically from 1 to almost 1 / max_period; with `shift` 1, to that.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(max_period) * exponents / (half - shift))
    angles = timesteps.float()[:, None] * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    return nn.functional.pad(embedding, (0, dim % 2))


def checkpoint(
    func: Callable, inputs: Sequence[Tensor], params: Iterable[Tensor], flag: bool
) -> Tensor:
    """func(*inputs); with `flag`, its activations are recomputed in backward instead of kept.

    The recomputation sees the same dropout masks, and the weights as they are at backward:
    a caller that moves weights must not move them back in between. `params` is guided-diffusion's
    argument; autograd finds the parameters by itself.
    """
    if not flag:
        return func(*inputs)
    return torch.utils.checkpoint.checkpoint(func, *inputs, use_reentrant=False)
