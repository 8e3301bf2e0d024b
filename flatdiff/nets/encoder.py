"""The classifier of noised images: the U-Net's lower half and a head (ADM, appendix H).

Arguments, parameter names and their order are guided-diffusion's.
"""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from .blocks import AttentionPool2d
from .nn import SiLU, conv_nd, linear, normalization, zero_module
from .trunk import Blocks, Trunk

FEATURES = 2048  # width of the hidden layer of the spatial heads


class EncoderUNetModel(Trunk):
    """The lower half of the U-Net with a head: [N, in_channels, H, W] -> [N, out_channels].

    pool: the head. "adaptive": mean over space, 1x1 convolution; "attention": AttentionPool2d
    (needs num_head_channels and images of image_size); "spatial", "spatial_v2": means of all
    blocks' features, then two linear layers. The other arguments are UNetModel's
    (num_heads_upsample has nothing to act on).
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
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        pool: str = "adaptive",
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
        super().__init__(blocks, in_channels, model_channels, channel_mult, num_res_blocks)
        self.image_size, self.pool, self.out_channels = image_size, pool, out_channels
        self.num_heads_upsample = num_heads if num_heads_upsample == -1 else num_heads_upsample
        side = image_size // 2 ** (len(self.widths) - 1)
        self.out = self._head(pool, dims, side, num_head_channels, out_channels)

    def _head(
        self, pool: str, dims: int, side: int, num_head_channels: int, out_channels: int
    ) -> nn.Sequential:
        width = self.widths[-1]
        num_features = sum(self.skip_widths) + width
        if pool == "adaptive":
            return nn.Sequential(
                normalization(width),
                SiLU(),
                nn.AdaptiveAvgPool2d((1, 1)),
                zero_module(conv_nd(dims, width, out_channels, 1)),
                nn.Flatten(),
            )
        if pool == "attention":
            if num_head_channels == -1:
                raise ValueError("pool 'attention' needs num_head_channels, got -1 (unset)")
            attention = AttentionPool2d(side, width, num_head_channels, out_channels)
            return nn.Sequential(normalization(width), SiLU(), attention)
        if pool == "spatial":
            hidden = [nn.ReLU()]
        elif pool == "spatial_v2":
            hidden = [normalization(FEATURES), SiLU()]
        else:
            raise ValueError(
                f"pool is {pool!r}; heads are adaptive, attention, spatial and spatial_v2"
            )
        return nn.Sequential(
            linear(num_features, FEATURES), *hidden, linear(FEATURES, out_channels)
        )

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x: [N, in_channels, H, W]; timesteps: [N]. Returns logits [N, out_channels]."""
        features = self.descend(x, self.embed(timesteps))
        if self.pool.startswith("spatial"):
            means = [h.to(x.dtype).flatten(2).mean(2) for h in features]
            return self.out(torch.cat(means, dim=1)).to(x.dtype)
        return self.out(features[-1].to(x.dtype)).to(x.dtype)
