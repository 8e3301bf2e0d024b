"""DINOv2's ViT-L/14 as features: its class token, on which an FD-DINOv2 is measured.

Oquab et al. 2023; Stein et al. 2023, "Exposing flaws of generative model evaluation metrics", who
resize to 224 pixels by bicubic interpolation. Layers have the names of the published file. Its
positions, learned for 37 x 37 patches, are read at a scale of (16 + 0.1) / 37, as it was published.
"""

import math
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import must_be_named
from .names import DINOV2_FILE as FILE

URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{FILE}"
SIDE, PATCH = 224, 14  # pixels
WIDTH, DEPTH, HEADS, GRID = 1024, 24, 16, 37
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
OFFSET = 0.1  # patches


class Attention(nn.Module):
    """Softmax attention among tokens [N, L, width]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)  # [N, heads, L, width / heads]
        return self.proj(x.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers, the inner one four times as wide."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Scale(nn.Module):
    """A factor for each feature of a branch."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention, then the perceptron, each normed before, scaled after and added."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DINOv2(nn.Module):
    """uint8 [N, 3, H, W] -> {"pool": [N, width]}, float32."""

    resize = f"bicubic with antialiasing to {SIDE}x{SIDE} (Stein et al. 2023)"

    def __init__(self, width=WIDTH, depth=DEPTH, heads=HEADS, grid=GRID):
        super().__init__()
        self.dim = width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the file, and not used
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = images.float()
        for size in ((x.shape[2], SIDE), (SIDE, SIDE)):  # width first, and whole levels, as Pillow
            if x.shape[2:] != size:
                x = F.interpolate(x, size, mode="bicubic", antialias=True).round().clamp(0, 255)
        mean, deviation = (x.new_tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
        return {"pool": self.tokens((x / 255 - mean) / deviation)[:, 0]}

    def tokens(self, x: Tensor) -> Tensor:
        """Normed pixels [N, 3, H, W], of whole patches, -> [N, 1 + patches, width]."""
        x = self.patch_embed["proj"](x)  # [N, width, h, w]
        positions = self.positions(*x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def positions(self, *size: int) -> Tensor:
        """The learned positions, of the class token and of a grid of this size: [1, 1 + h w, D]."""
        own = math.isqrt(self.pos_embed.shape[1] - 1)
        if size == (own, own):
            return self.pos_embed
        first, others = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        others = others.transpose(1, 2).unflatten(2, (own, own))
        scale = tuple((n + OFFSET) / own for n in size)
        others = F.interpolate(others, scale_factor=scale, mode="bicubic")
        return torch.cat([first, others.flatten(2).transpose(1, 2)], dim=1)


def load(weights: str | None, **_) -> DINOv2:
    """The network with the weights of the published file; ValueError if it is another."""
    if not weights:
        raise ValueError(f"the features dinov2 need --dinov2_weights FILE: {FILE}, from {URL}")
    if not os.path.isfile(weights):
        raise ValueError(f"no DINOv2 weights at {os.path.abspath(weights)}; get them from {URL}")
    must_be_named(weights, FILE, URL)
    try:
        state = dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ValueError(f"{weights} cannot be read as weights; get {FILE} from {URL}") from error
    with torch.device("meta"):
        network = DINOv2()
    own = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: getattr(value, "shape", None) for key, value in state.items()}
    if wrong := sorted(key for key in own.keys() | found if own.get(key) != found.get(key)):
        raise ValueError(
            f"{weights} is not {FILE}, DINOv2's ViT-L/14: {len(wrong)} of its tensors are missing, "
            f"too many or of another shape, as {wrong[0]}; get it from {URL}"
        )
    network.load_state_dict(state, assign=True)
    return network.float().eval()
