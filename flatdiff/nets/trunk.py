"""What the U-Net and the classifier share: embeddings, the half that goes down, and the middle.

It knows no head: UNetModel goes up again from here, EncoderUNetModel classifies.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .blocks import AttentionBlock, Downsample, ResBlock, TimestepEmbedSequential, Upsample
from .nn import SiLU, conv_nd, linear, timestep_embedding

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Blocks:
    """Makes the blocks of one network; holds what they have in common.

    attention_resolutions: the strides (1 is the full size) at which attention follows.
    """

    emb_channels: int
    attention_resolutions: Collection[int]
    dropout: float
    dims: int
    conv_resample: bool
    use_checkpoint: bool
    num_heads: int
    num_head_channels: int
    use_scale_shift_norm: bool
    resblock_updown: bool
    use_new_attention_order: bool

    def res(self, channels: int, out_channels: int, **resample: bool) -> ResBlock:
        return ResBlock(
            channels,
            self.emb_channels,
            self.dropout,
            out_channels,
            use_scale_shift_norm=self.use_scale_shift_norm,
            dims=self.dims,
            use_checkpoint=self.use_checkpoint,
            **resample,
        )

    def attention(self, channels: int) -> AttentionBlock:
        return AttentionBlock(
            channels,
            self.num_heads,
            self.num_head_channels,
            self.use_checkpoint,
            self.use_new_attention_order,
        )

    def stage(self, channels: int, out_channels: int, stride: int) -> list[nn.Module]:
        """A ResBlock, and attention where this stride has it."""
        res = self.res(channels, out_channels)
        if stride not in self.attention_resolutions:
            return [res]
        return [res, self.attention(out_channels)]

    def down(self, channels: int) -> nn.Module:
        if self.resblock_updown:
            return self.res(channels, channels, down=True)
        return Downsample(channels, self.conv_resample, self.dims)

    def up(self, channels: int) -> nn.Module:
        if self.resblock_updown:
            return self.res(channels, channels, up=True)
        return Upsample(channels, self.conv_resample, self.dims)


class Trunk(nn.Module):
    """The timestep (and label) embedding, the input blocks and the middle block.

    Level i is int(channel_mult[i] * model_channels) wide (`widths`), and half the size of level
    i - 1. `skip_widths` are the channels of every input block's output.
    """

    def __init__(
        self,
        blocks: Blocks,
        in_channels: int,
        model_channels: int,
        channel_mult: Sequence[float],
        num_res_blocks: int,
        num_classes: int | None = None,
    ):
        super().__init__()
        self.in_channels, self.model_channels = in_channels, model_channels
        self.channel_mult, self.num_res_blocks = channel_mult, num_res_blocks
        self.num_classes = num_classes
        self.attention_resolutions, self.dropout = blocks.attention_resolutions, blocks.dropout
        self.conv_resample, self.use_checkpoint = blocks.conv_resample, blocks.use_checkpoint
        self.num_heads, self.num_head_channels = blocks.num_heads, blocks.num_head_channels
        self.widths = [int(mult * model_channels) for mult in channel_mult]
        self.time_embed = nn.Sequential(
            linear(model_channels, blocks.emb_channels),
            SiLU(),
            linear(blocks.emb_channels, blocks.emb_channels),
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, blocks.emb_channels)

        width = self.widths[0]
        stages = [[conv_nd(blocks.dims, in_channels, width, 3, padding=1)]]
        self.skip_widths = [width]
        for level, out_width in enumerate(self.widths):
            for _ in range(num_res_blocks):
                stages.append(blocks.stage(width, out_width, stride=2**level))
                width = out_width
                self.skip_widths.append(width)
            if level < len(self.widths) - 1:
                stages.append([blocks.down(width)])
                self.skip_widths.append(width)
        self.input_blocks = nn.ModuleList(TimestepEmbedSequential(*layers) for layers in stages)
        self.middle_block = TimestepEmbedSequential(
            blocks.res(width, width), blocks.attention(width), blocks.res(width, width)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the torso computes in: that of its first weights."""
        return next(self.input_blocks.parameters()).dtype

    def convert_to_fp16(self) -> None:
        """Half precision for the torso's convolutions; norms, linear layers and `out` stay."""
        self._convert_torso(torch.float16)

    def convert_to_fp32(self) -> None:
        self._convert_torso(torch.float32)

    def _convert_torso(self, dtype: torch.dtype) -> None:
        for name, module in self.named_modules():
            if isinstance(module, CONVOLUTIONS) and not name.startswith("out."):
                module.to(dtype)

    def embed(self, timesteps: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """timesteps: [N]; y: labels [N], exactly when the network has classes. [N, emb]."""
        if y is None and self.num_classes is not None:
            raise ValueError(
                f"a network of {self.num_classes} classes needs the labels y, got None"
            )
        if y is not None and self.num_classes is None:
            raise ValueError("labels y were given to a network without classes (class_cond False)")
        sinusoids = timestep_embedding(timesteps, self.model_channels)
        emb = self.time_embed(sinusoids.to(next(self.time_embed.parameters()).dtype))
        return emb if y is None else emb + self.label_emb(y)

    def descend(self, x: torch.Tensor, emb: torch.Tensor) -> list[torch.Tensor]:
        """The output of every input block, then that of the middle block."""
        features = []
        h = x.to(self.dtype)
        for block in self.input_blocks:
            h = block(h, emb)
            features.append(h)
        return [*features, self.middle_block(h, emb)]
