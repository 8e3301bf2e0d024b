"""The blocks of the U-Net: residual blocks, attention, and halving and doubling of the image.

Parameter names and shapes are guided-diffusion's, so that its checkpoints load. Every block takes
contiguous and channels_last images and gives back the layout that it was given.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import attention as kernels
from .layers import Layers, avg_pool_nd, checkpoint, conv_nd, normalization, run_layers, zero_module


class TimestepBlock(nn.Module):
    """A module whose forward also takes the embedding of the timestep."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        raise NotImplementedError


class TimestepEmbedSequential(nn.Sequential, TimestepBlock):
    """A Sequential that hands the embedding to those of its children that take one."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, TimestepBlock) else layer(x)
        return x


class _Resample(nn.Module):
    """What changes height and width by two; `_make` makes its layer."""

    def __init__(
        self, channels: int, use_conv: bool, dims: int = 2, out_channels: int | None = None
    ):
        super().__init__()
        self.channels, self.out_channels = channels, out_channels or channels
        self.use_conv, self.dims = use_conv, dims
        self.scale = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}[dims]
        self._make()


class Upsample(_Resample):
    """Doubles height and width by repeating pixels, then a 3x3 convolution if `use_conv`.

    In three dimensions the first one (time) keeps its length.
    """

    def _make(self) -> None:
        width = self.channels, self.out_channels
        self.conv = conv_nd(self.dims, *width, 3, padding=1) if self.use_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))


class Downsample(_Resample):
    """Halves height and width: a strided 3x3 convolution if `use_conv`, else the mean of 2x2."""

    def _make(self) -> None:
        self.op = avg_pool_nd(self.dims, kernel_size=self.scale, stride=self.scale)
        if self.use_conv:
            width = self.channels, self.out_channels
            self.op = conv_nd(self.dims, *width, 3, self.scale, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(TimestepBlock):
    """Two convolutions around a skip, told the timestep between them (Ho et al. 2020, ADM).

    `use_scale_shift_norm`: the embedding scales and shifts the normalized features (FiLM),
    otherwise it is added to them. `up`, `down`: the block also doubles or halves the image.
    `use_conv`: a skip that changes the width is a 3x3 convolution instead of 1x1.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int | None = None,
        use_conv: bool = False,
        use_scale_shift_norm: bool = False,
        dims: int = 2,
        use_checkpoint: bool = False,
        up: bool = False,
        down: bool = False,
    ):
        super().__init__()
        self.channels, self.emb_channels = channels, emb_channels
        self.out_channels = out_channels = out_channels or channels
        self.dropout, self.use_conv = dropout, use_conv
        self.use_checkpoint, self.use_scale_shift_norm = use_checkpoint, use_scale_shift_norm
        self.updown = up or down

        self.in_layers = Layers(
            normalization(channels), nn.SiLU(), conv_nd(dims, channels, out_channels, 3, padding=1)
        )
        resample = Upsample if up else Downsample
        self.h_upd, self.x_upd = (
            resample(channels, False, dims) if self.updown else nn.Identity() for _ in range(2)
        )
        emb_width = 2 * out_channels if use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, emb_width))
        last = zero_module(conv_nd(dims, out_channels, out_channels, 3, padding=1))
        norm = normalization(out_channels)
        self.out_layers = Layers(norm, nn.SiLU(), nn.Dropout(p=dropout), last)
        self.skip_connection = nn.Identity()
        if out_channels != channels:
            width, padding = (3, 1) if use_conv else (1, 0)
            self.skip_connection = conv_nd(dims, channels, out_channels, width, padding=padding)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: [N, C, *spatial]; emb: [N, emb_channels]. Returns [N, out_channels, *spatial]."""
        return checkpoint(self._forward, (x, emb), self.parameters(), self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.updown:
            *before, conv = self.in_layers
            h, x = conv(self.h_upd(run_layers(before, x))), self.x_upd(x)
        else:
            h = self.in_layers(x)
        emb = self.emb_layers(emb).to(h.dtype)
        if self.use_scale_shift_norm:
            h = run_layers(self.out_layers, h, film=emb)
        else:
            h = self.out_layers(h + emb.view(*emb.shape, *[1] * (h.ndim - 2)))
        return self.skip_connection(x) + h


class TokenLinear(nn.Conv1d):
    """A convolution of width 1, [N, channels, T] -> [N, out_channels, T], as a matrix product.

    On channels_last images the channels of a token lie together: nothing is copied.
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.transpose(1, 2), self.weight.squeeze(2), self.bias).transpose(1, 2)


def attend(qkv: Tensor, num_heads: int, new_order: bool) -> Tensor:
    """softmax(q k^T / sqrt(ch)) v for every head: [N, T, 3 C] -> [N, T, C].

    The 3 C channels are ordered [q|k|v][head][ch] in the new order, [head][q|k|v][ch] in the
    legacy one.
    """
    order, part = ((3, num_heads, -1), 2) if new_order else ((num_heads, 3, -1), 3)
    q, k, v = (x.transpose(1, 2) for x in qkv.unflatten(2, order).unbind(part))  # [N, head, T, ch]
    attention = kernels.attend if kernels.takes(q) else F.scaled_dot_product_attention
    return attention(q, k, v).transpose(1, 2).flatten(2)


class QKVAttentionLegacy(nn.Module):
    """Attention over qkv of the legacy order, [N, 3 C, T] -> [N, C, T]."""

    new_order = False

    def __init__(self, n_heads: int):
        super().__init__()
        self.n_heads = n_heads

    def forward(self, qkv: Tensor) -> Tensor:
        return attend(qkv.transpose(1, 2), self.n_heads, self.new_order).transpose(1, 2)

    @staticmethod
    def count_flops(model: nn.Module, _x, y) -> None:
        count_flops_attn(model, _x, y)


class QKVAttention(QKVAttentionLegacy):
    """Attention over qkv of the new order, [N, 3 C, T] -> [N, C, T]."""

    new_order = True


def count_flops_attn(model: nn.Module, _x, y: Tensor) -> None:
    """For the package thop: adds the two matrix products behind y [N, C, T] to total_ops."""
    n, channels, length = y.shape
    model.total_ops += torch.DoubleTensor([2 * n * channels * length**2])


def count_heads(channels: int, num_heads: int, num_head_channels: int) -> int:
    """How many heads `channels` make: `num_heads`, or as many as have `num_head_channels` each."""
    if num_head_channels == -1:
        if num_heads < 1 or channels % num_heads:
            raise ValueError(
                f"{channels} channels do not divide into num_heads = {num_heads}: "
                "give a divisor, 1 or more"
            )
        return num_heads
    if num_head_channels < 1 or channels % num_head_channels:
        raise ValueError(
            f"{channels} channels do not divide into heads of num_head_channels = "
            f"{num_head_channels}; choose a divisor, or -1 to give num_heads instead"
        )
    return channels // num_head_channels


class AttentionBlock(nn.Module):
    """Every position looks at all others; added to a skip. [N, C, *spatial] -> the same."""

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        num_head_channels: int = -1,
        use_checkpoint: bool = False,
        use_new_attention_order: bool = False,
    ):
        super().__init__()
        self.channels, self.use_checkpoint = channels, use_checkpoint
        self.num_heads = count_heads(channels, num_heads, num_head_channels)
        self.norm = normalization(channels)
        self.qkv = TokenLinear(channels, 3 * channels)
        order = QKVAttention if use_new_attention_order else QKVAttentionLegacy
        self.attention = order(self.num_heads)
        self.proj_out = zero_module(TokenLinear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self._forward, (x,), self.parameters(), self.use_checkpoint)

    def _forward(self, x: Tensor) -> Tensor:
        # A group norm is faster on an image; what may stand in its place sees a row of positions.
        on_image = isinstance(self.norm, nn.GroupNorm)
        h = self.norm(x).flatten(2) if on_image else self.norm(x.flatten(2))  # [N, C, T]
        return x + self.proj_out(self.attention(self.qkv(h))).reshape(x.shape)


class AttentionPool2d(nn.Module):
    """[N, C, S, S] -> [N, output_dim]: the mean position attends to all (as in CLIP).

    spacial_dim: S (guided-diffusion's spelling); num_heads_channels: channels of a head.
    """

    def __init__(
        self,
        spacial_dim: int,
        embed_dim: int,
        num_heads_channels: int,
        output_dim: int | None = None,
    ):
        super().__init__()
        positions = torch.randn(embed_dim, spacial_dim**2 + 1) / embed_dim**0.5
        self.positional_embedding = nn.Parameter(positions)
        self.qkv_proj = TokenLinear(embed_dim, 3 * embed_dim)
        self.c_proj = TokenLinear(embed_dim, output_dim or embed_dim)
        self.num_heads = count_heads(embed_dim, 1, num_heads_channels)
        self.attention = QKVAttention(self.num_heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)  # [N, C, S * S]
        x = torch.cat([x.mean(dim=2, keepdim=True), x], dim=2)
        if x.shape[2] != self.positional_embedding.shape[1]:
            raise ValueError(
                f"attention pooling got {x.shape[2] - 1} positions and is made for "
                f"{self.positional_embedding.shape[1] - 1}: give images of the network's image_size"
            )
        x = x + self.positional_embedding.to(x.dtype)
        h = self.attention(self.qkv_proj(x))
        return self.c_proj(h[:, :, :1])[:, :, 0]
