"""The networks: U-Nets over images and timesteps (Ho et al. 2020; ADM, Dhariwal & Nichol 2021).

UNetModel guesses the noise, SuperResModel does so beside a small image, EncoderUNetModel
classifies noised images. Arguments, parameter names and their order are guided-diffusion's.
Nothing here knows of noise schedules or training.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import (
    AttentionBlock,
    AttentionPool2d,
    Downsample,
    QKVAttention,
    QKVAttentionLegacy,
    ResBlock,
    TimestepBlock,
    TimestepEmbedSequential,
    Upsample,
    count_flops_attn,
)
from .encoder import EncoderUNetModel
from .nn import Layers, SiLU, conv_nd, normalization, zero_module
from .trunk import Blocks, Trunk

__all__ = [
    "AttentionBlock",
    "AttentionPool2d",
    "Downsample",
    "EncoderUNetModel",
    "QKVAttention",
    "QKVAttentionLegacy",
    "ResBlock",
    "SuperResModel",
    "TimestepBlock",
    "TimestepEmbedSequential",
    "UNetModel",
    "Upsample",
    "count_flops_attn",
]


class UNetModel(Trunk):
    """The U-Net with attention and timestep embedding.

    image_size: side of the square images;
    model_channels: base width; level i is int(channel_mult[i] * model_channels) wide;
    num_res_blocks: residual blocks a level on the way down, one more on the way up;
    attention_resolutions: strides (1 is the full size) whose levels have attention;
    conv_resample: learned convolutions at the changes of size; dims: 1, 2 or 3 spatial dimensions;
    num_classes: rows of the label embedding, None without labels;
    use_checkpoint: recompute activations in backward, for less memory;
    use_fp16: guided-diffusion's argument; here the weights' dtype decides (convert_to_fp16);
    num_heads, num_head_channels: attention heads, or channels of each unless that is -1;
    num_heads_upsample: heads on the way up, -1 for num_heads;
    use_scale_shift_norm: FiLM conditioning; resblock_updown: residual blocks change the size;
    use_new_attention_order: q, k, v are split before the heads (same parameters, other meaning).
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Collection[int],
        dropout: float = 0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        dims: int = 2,
        num_classes: int | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
    ):
        blocks = Blocks(
            emb_channels=4 * model_channels,
            attention_resolutions=attention_resolutions,
            dropout=dropout,
            dims=dims,
            conv_resample=conv_resample,
            use_checkpoint=use_checkpoint,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            use_new_attention_order=use_new_attention_order,
        )
        super().__init__(
            blocks, in_channels, model_channels, channel_mult, num_res_blocks, num_classes
        )
        self.image_size, self.out_channels = image_size, out_channels
        self._check_size(image_size)
        self.num_heads_upsample = num_heads if num_heads_upsample == -1 else num_heads_upsample
        blocks = replace(blocks, num_heads=self.num_heads_upsample)
        self.output_blocks = self._ascent(blocks, num_res_blocks)
        width = self.widths[0]
        self.out = Layers(
            normalization(width),
            SiLU(),
            zero_module(conv_nd(dims, width, out_channels, 3, padding=1)),
        )

    def _ascent(self, blocks: Blocks, num_res_blocks: int) -> nn.ModuleList:
        skip_widths = list(self.skip_widths)
        width = skip_widths[-1]
        ascent = nn.ModuleList()
        for level, out_width in reversed(list(enumerate(self.widths))):
            for i in range(num_res_blocks + 1):
                layers = blocks.stage(width + skip_widths.pop(), out_width, stride=2**level)
                width = out_width
                if i == num_res_blocks and level > 0:
                    layers.append(blocks.up(width))
                ascent.append(TimestepEmbedSequential(*layers))
        return ascent

    def _check_size(self, *sides: int) -> None:
        halvings = len(self.widths) - 1
        if any(side % 2**halvings for side in sides):
            raise ValueError(
                f"images of side {' x '.join(map(str, sides))} cannot be halved {halvings} times: "
                f"give sides that divide by {2**halvings}, or fewer levels in channel_mult"
            )

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, y: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x: [N, in_channels, H, W]; timesteps: [N], may be fractional; y: labels [N], exactly
        when the network has classes. Returns [N, out_channels, H, W] in x's dtype."""
        self._check_size(*x.shape[2:][-2:])
        emb = self.embed(timesteps, y)
        *skips, h = self.descend(x, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h.to(x.dtype)).to(x.dtype)


class SuperResModel(UNetModel):
    """A UNetModel that also sees a small image, enlarged and joined to x's channels."""

    def __init__(self, image_size: int, in_channels: int, *args, **kwargs):
        super().__init__(image_size, in_channels * 2, *args, **kwargs)

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        low_res: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """x: [N, C, H, W]; low_res: [N, C, h, w], enlarged to H x W bilinearly."""
        if low_res is None:
            raise ValueError("the super-resolution network needs low_res, [N, C, h, w]; got None")
        enlarged = F.interpolate(low_res, x.shape[2:], mode="bilinear")
        return super().forward(torch.cat([x, enlarged], dim=1), timesteps, **kwargs)
