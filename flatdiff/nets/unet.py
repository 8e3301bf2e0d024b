"""The networks: U-Nets over images and timesteps (Ho et al. 2020; ADM, Dhariwal & Nichol 2021).

UNetModel guesses the noise, SuperResModel does so beside a small image; they go down and up again,
where the classifier (`classifier`) goes down only. Arguments, parameter names and their order are
guided-diffusion's. Nothing here knows of noise schedules or training.
"""

import functools
from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import AttentionBlock, Downsample, ResBlock, TimestepEmbedSequential, Upsample
from .layers import (
    CONVOLUTIONS,
    Layers,
    check_labels,
    conv_nd,
    normalization,
    timestep_embedding,
    zero_module,
)


class Trunk(nn.Module):
    """What all of them share: the embedding of timestep and label, the way down, the middle.

    image_size: side of the square images;
    model_channels: base width; level i is int(channel_mult[i] * model_channels) wide, and half the
    size of level i - 1;
    num_res_blocks: residual blocks a level on the way down, one more on the way up;
    attention_resolutions: strides (1 is the full size) whose levels have attention;
    conv_resample: learned convolutions at the changes of size; dims: 1, 2 or 3 spatial dimensions;
    num_classes: rows of the label embedding, None without labels; null_label: one more row, the
    label num_classes, of images whose class is hidden;
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
        null_label: bool = False,
    ):
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        vars(self).update(settings)
        self.num_heads_upsample = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.widths = [int(mult * model_channels) for mult in channel_mult]
        self.emb_channels = width = 4 * model_channels
        layers = nn.Linear(model_channels, width), nn.SiLU(), nn.Linear(width, width)
        self.time_embed = nn.Sequential(*layers)
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes + null_label, width)
        self.skip_widths: list[int] = []  # channels of every input block's output
        self.input_blocks = self._way_down()
        width = self.widths[-1]
        self.middle_block = TimestepEmbedSequential(
            self._res(width, width), self._attention(width, num_heads), self._res(width, width)
        )

    def _way_down(self) -> nn.ModuleList:
        width = self.widths[0]
        stages = [[conv_nd(self.dims, self.in_channels, width, 3, padding=1)]]
        self.skip_widths.append(width)
        for level, out_width in enumerate(self.widths):
            for _ in range(self.num_res_blocks):
                stages.append(self._stage(width, out_width, level, self.num_heads))
                width = out_width
                self.skip_widths.append(width)
            if level < len(self.widths) - 1:
                stages.append([self._resampled(width, down=True)])
                self.skip_widths.append(width)
        return nn.ModuleList(TimestepEmbedSequential(*layers) for layers in stages)

    def _stage(self, channels: int, out_channels: int, level: int, heads: int) -> list[nn.Module]:
        """A ResBlock, and attention where this level has it."""
        attends = 2**level in self.attention_resolutions
        layers = [self._res(channels, out_channels)]
        return layers + ([self._attention(out_channels, heads)] if attends else [])

    def _res(self, channels: int, out_channels: int, **resample: bool) -> ResBlock:
        how = {"use_scale_shift_norm": self.use_scale_shift_norm, "dims": self.dims}
        how |= {"use_checkpoint": self.use_checkpoint, **resample}
        return ResBlock(channels, self.emb_channels, self.dropout, out_channels, **how)

    def _attention(self, channels: int, heads: int) -> AttentionBlock:
        how = self.num_head_channels, self.use_checkpoint, self.use_new_attention_order
        return AttentionBlock(channels, heads, *how)

    def _resampled(self, channels: int, **resample: bool) -> nn.Module:
        """A layer that gives half the size with down=True, twice the size with up=True."""
        if self.resblock_updown:
            return self._res(channels, channels, **resample)
        kind = Downsample if "down" in resample else Upsample
        return kind(channels, self.conv_resample, self.dims)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the torso computes in: that of its first weights."""
        return next(self.input_blocks.parameters()).dtype

    def convert_to_fp16(self) -> None:
        """Gives half precision to the torso's convolutions; norms, linear layers and `out` stay."""
        self._convert_torso(torch.float16)

    def convert_to_fp32(self) -> None:
        """Undoes convert_to_fp16, but for what it rounded."""
        self._convert_torso(torch.float32)

    def _convert_torso(self, dtype: torch.dtype) -> None:
        for name, module in self.named_modules():
            if isinstance(module, CONVOLUTIONS) and not name.startswith("out."):
                module.to(dtype)

    def embed(self, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """Timesteps [N], and labels y [N] exactly if there are classes -> an embedding [N, emb]."""
        check_labels(y, self.num_classes)
        sinusoids = timestep_embedding(timesteps, self.model_channels)
        emb = self.time_embed(sinusoids.to(next(self.time_embed.parameters()).dtype))
        return emb if y is None else emb + self.label_emb(y)

    def descend(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The output of every input block, then that of the middle block."""
        features = []
        h = x.to(self.dtype)
        for block in self.input_blocks:
            h = block(h, emb)
            features.append(h)
        return [*features, self.middle_block(h, emb)]


class UNetModel(Trunk):
    """The U-Net with attention and timestep embedding. Its arguments are Trunk's."""

    @functools.wraps(Trunk.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._check_size(self.image_size)
        self.output_blocks = self._way_up()
        width = self.widths[0]
        last = zero_module(conv_nd(self.dims, width, self.out_channels, 3, padding=1))
        self.out = Layers(normalization(width), nn.SiLU(), last)

    def _way_up(self) -> nn.ModuleList:
        skip_widths, width = list(self.skip_widths), self.widths[-1]
        blocks = nn.ModuleList()
        for level, out_width in reversed(list(enumerate(self.widths))):
            for i in range(self.num_res_blocks + 1):
                joined = width + skip_widths.pop()
                layers = self._stage(joined, out_width, level, self.num_heads_upsample)
                width = out_width
                if i == self.num_res_blocks and level > 0:
                    layers.append(self._resampled(width, up=True))
                blocks.append(TimestepEmbedSequential(*layers))
        return blocks

    def _check_size(self, *sides: int) -> None:
        halvings = len(self.widths) - 1
        if any(side % 2**halvings for side in sides):
            raise ValueError(
                f"images of side {' x '.join(map(str, sides))} cannot be halved {halvings} times: "
                f"give sides that divide by {2**halvings}, or fewer levels in channel_mult"
            )

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """x: [N, in_channels, H, W]; timesteps: [N], may be fractional; y: labels [N], exactly
        when the network has classes. Returns [N, out_channels, H, W] in x's dtype."""
        self._check_size(*x.shape[2:][-2:])
        emb = self.embed(timesteps, y)
        skips = self.descend(x, emb)
        h = skips.pop()
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h.to(x.dtype)).to(x.dtype)


class SuperResModel(UNetModel):
    """A UNetModel that also sees a small image, enlarged and joined to x's channels."""

    def __init__(self, image_size: int, in_channels: int, *args, **kwargs):
        super().__init__(image_size, in_channels * 2, *args, **kwargs)

    def forward(
        self, x: Tensor, timesteps: Tensor, low_res: Tensor | None = None, **kwargs
    ) -> Tensor:
        """x: [N, C, H, W]; low_res: [N, C, h, w], enlarged to H x W bilinearly."""
        if low_res is None:
            raise ValueError("the super-resolution network needs low_res, [N, C, h, w]; got None")
        enlarged = F.interpolate(low_res, x.shape[2:], mode="bilinear")
        return super().forward(torch.cat([x, enlarged], dim=1), timesteps, **kwargs)
