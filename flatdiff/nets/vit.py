"""A plain vision transformer over patches of pixels: DiT (Peebles & Xie 2023), without latents.

Patches are tokens, embedded by one linear layer, each at a fixed place; timestep and label shift,
scale and gate every block (adaLN-zero); the last layer makes pixels of tokens. It is the network
that diffusers calls DiTTransformer2DModel (`exchange.dit_format`), of one embedding for all blocks.
Nothing here knows of noise schedules or training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import attend, count_heads
from .layers import check_labels, checkpoint, conv_nd, timestep_embedding, zero_module

SINUSOIDS = 256  # that a timestep is embedded by
EPS = 1e-6  # of all norms, which have no weights
MLP_RATIO = 4  # width of a block's hidden layer, in widths of the block


def positions(side: int, channels: int) -> Tensor:
    """Sinusoids of column and row, [side * side, channels]: a quarter each of sin and cos of the
    column, then of the row; wave lengths grow geometrically from 2 pi to almost 20000 pi tokens."""
    exponents = torch.arange(channels // 4, dtype=torch.float64) / (channels // 4)
    angles = torch.arange(side, dtype=torch.float64)[:, None] / 10000**exponents
    place = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, channels / 2]
    columns, rows = place.repeat(side, 1), place.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1).float()


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) (1 + scale) + shift; x: [N, T, C], shift and scale: [N, 1, C]."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


def unpatched(tokens: Tensor, patch_size: int) -> Tensor:
    """Tokens [N, side * side, patch * patch * C], row by row, as images [N, C, H, W], whose
    channels lie together (channels_last)."""
    side = round(tokens.shape[1] ** 0.5)
    pixels = tokens.view(len(tokens), side, side, patch_size, patch_size, -1)
    images = pixels.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # [N, H, W, C]
    return images.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm and beside a skip. A new one is the identity:
    shifts, scales and gates are zero (adaLN-zero)."""

    def __init__(self, channels: int, num_heads: int, dropout: float, use_checkpoint: bool):
        super().__init__()
        self.num_heads, self.use_checkpoint = num_heads, use_checkpoint
        self.modulation = nn.Linear(channels, 6 * channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj_out = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        hidden = MLP_RATIO * channels
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.GELU(approximate="tanh"),
            nn.Dropout(dropout),
            nn.Linear(hidden, channels),
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: tokens [N, T, C]; emb: [N, C]. Returns [N, T, C]."""
        return checkpoint(self._forward, (x, emb), self.parameters(), self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        to_attention, to_mlp = self.modulation(emb)[:, None].chunk(2, dim=2)
        shift, scale, gate = to_attention.chunk(3, dim=2)  # each [N, 1, C]
        h = attend(self.qkv(modulated(x, shift, scale)), self.num_heads, new_order=True)
        x = x + gate * self.dropout(self.proj_out(h))
        shift, scale, gate = to_mlp.chunk(3, dim=2)
        return x + gate * self.mlp(modulated(x, shift, scale))


class ViT(nn.Module):
    """Images and timesteps -> images of the same size; new, it gives zeros.

    image_size: side of the square images; patch_size: side of a patch, which divides it;
    model_channels: width of the tokens; num_layers: blocks;
    num_heads, num_head_channels: attention heads, or channels of each unless that is -1;
    num_classes: rows of the label embedding, None without labels; null_label: one more row, the
    label num_classes, for images without one (classifier-free guidance, Ho & Salimans 2021);
    dropout: share of features dropped in training, behind attention and inside the perceptron;
    use_checkpoint: recompute activations in backward, for less memory.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        *,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        num_head_channels: int = -1,
        num_classes: int | None = None,
        null_label: bool = False,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
    ):
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        vars(self).update(settings)
        self._check_sizes()
        self.num_heads = count_heads(model_channels, num_heads, num_head_channels)
        width, patch = model_channels, patch_size
        self.patch_embed = conv_nd(2, in_channels, width, patch, stride=patch)
        self.register_buffer("positions", positions(image_size // patch, width), persistent=False)
        layers = nn.Linear(SINUSOIDS, width), nn.SiLU(), nn.Linear(width, width)
        self.time_embed = nn.Sequential(*layers)
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes + null_label, width)
        block = width, self.num_heads, dropout, use_checkpoint
        self.blocks = nn.ModuleList(Block(*block) for _ in range(num_layers))
        self.out_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch * patch * out_channels)
        self._draw()

    def _check_sizes(self) -> None:
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} does not divide into patches of patch_size "
                f"{self.patch_size}: give a divisor of the image's side as --patch_size"
            )
        if self.model_channels % 4:
            raise ValueError(
                f"num_channels is {self.model_channels}, and places of patches are embedded in "
                "four equal parts: give --num_channels that divide by 4"
            )
        if self.num_layers < 1:
            raise ValueError(f"num_layers is {self.num_layers}; give 1 block or more")
        if self.null_label and self.num_classes is None:
            raise ValueError("null_label is for networks with classes: give --class_cond True")

    def _draw(self) -> None:
        """Draws the weights as DiT does: Xavier's, narrow ones where embeddings are made, zeros
        where blocks are told and pixels are made."""
        for layer in [self.patch_embed, *self.blocks.modules()]:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight.flatten(1))
                nn.init.zeros_(layer.bias)
        for layer in [self.time_embed[0], self.time_embed[2], getattr(self, "label_emb", None)]:
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)
        for layer in [*(block.modulation for block in self.blocks), self.out_modulation, self.out]:
            zero_module(layer)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the blocks compute in: that of their weights."""
        return next(self.blocks.parameters()).dtype

    def convert_to_fp16(self) -> None:
        """Gives half precision to the blocks; the embeddings and the last layer stay."""
        self.blocks.half()

    def convert_to_fp32(self) -> None:
        """Undoes convert_to_fp16, but for what it rounded."""
        self.blocks.float()

    def embed(self, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """Timesteps [N], and labels y [N] exactly if there are classes -> an embedding [N, C]."""
        check_labels(y, self.num_classes)
        sinusoids = timestep_embedding(timesteps, SINUSOIDS, shift=1)
        emb = self.time_embed(sinusoids.to(self.time_embed[0].weight.dtype))
        return emb if y is None else emb + self.label_emb(y)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """x: [N, in_channels, H, W], H = W = image_size; timesteps: [N], may be fractional; y:
        labels [N], exactly when the network has classes. Returns [N, out_channels, H, W] in x's
        dtype, and in the layout of a convolution of x."""
        if x.shape[2:] != (self.image_size,) * 2:
            raise ValueError(
                f"images of {' x '.join(map(str, x.shape[2:]))} pixels: this vision transformer "
                f"knows the places of patches in {self.image_size} x {self.image_size}; give "
                "images of the network's image_size"
            )
        emb = F.silu(self.embed(timesteps, y))
        patches = self.patch_embed(x)  # [N, C, side, side]
        h = (patches.flatten(2).transpose(1, 2) + self.positions).to(self.dtype)  # [N, T, C]
        for block in self.blocks:
            h = block(h, emb.to(h.dtype))
        shift, scale = self.out_modulation(emb)[:, None].chunk(2, dim=2)
        pixels = self.out(modulated(h.to(x.dtype), shift, scale)).to(x.dtype)
        images = unpatched(pixels, self.patch_size)
        together = patches.is_contiguous(memory_format=torch.channels_last)
        return images if together else images.contiguous()
