"""The classifier of noised images: the U-Net's way down and a head (ADM, appendix H).

Arguments, parameter names and their order are guided-diffusion's.
"""

import inspect

import torch
from torch import Tensor, nn

from .blocks import AttentionPool2d
from .layers import SiLU, conv_nd, linear, normalization, zero_module
from .unet import Trunk

FEATURES = 2048  # width of the hidden layer of the spatial heads
POOL = inspect.Parameter("pool", inspect.Parameter.POSITIONAL_OR_KEYWORD, default="adaptive")
OF_LABELS = "num_classes", "null_label"
SHARED = [p for p in inspect.signature(Trunk).parameters.values() if p.name not in OF_LABELS]


class EncoderUNetModel(Trunk):
    """The lower half of the U-Net with a head: [N, in_channels, H, W] -> [N, out_channels].

    pool: the head. "adaptive": mean over space, 1x1 convolution; "attention": AttentionPool2d
    (needs num_head_channels and images of image_size); "spatial", "spatial_v2": means of all
    blocks' features, then two linear layers. The other arguments are Trunk's, without OF_LABELS
    (num_heads_upsample has nothing to act on).
    """

    __signature__ = inspect.Signature([*SHARED, POOL])

    def __init__(self, *args, **kwargs):
        given = self.__signature__.bind(*args, **kwargs).arguments
        pool = given.pop("pool", POOL.default)
        super().__init__(**given, num_classes=None)
        self.pool = pool
        self.out = self._head(pool)

    def _head(self, pool: str) -> nn.Sequential:
        width, out_channels = self.widths[-1], self.out_channels
        if pool == "adaptive":
            scores = zero_module(conv_nd(self.dims, width, out_channels, 1))
            layers = normalization(width), SiLU(), nn.AdaptiveAvgPool2d((1, 1)), scores
            return nn.Sequential(*layers, nn.Flatten())
        if pool == "attention":
            if self.num_head_channels == -1:
                raise ValueError("pool 'attention' needs num_head_channels, got -1 (unset)")
            side = self.image_size // 2 ** (len(self.widths) - 1)
            attention = AttentionPool2d(side, width, self.num_head_channels, out_channels)
            return nn.Sequential(normalization(width), SiLU(), attention)
        if pool == "spatial":
            hidden = [nn.ReLU()]
        elif pool == "spatial_v2":
            hidden = [normalization(FEATURES), SiLU()]
        else:
            heads = "heads are adaptive, attention, spatial and spatial_v2"
            raise ValueError(f"pool is {pool!r}; {heads}")
        first = linear(sum(self.skip_widths) + width, FEATURES)
        return nn.Sequential(first, *hidden, linear(FEATURES, out_channels))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """x: [N, in_channels, H, W]; timesteps: [N]. Returns logits [N, out_channels]."""
        features = self.descend(x, self.embed(timesteps))
        if self.pool.startswith("spatial"):
            means = [h.to(x.dtype).flatten(2).mean(2) for h in features]
            return self.out(torch.cat(means, dim=1)).to(x.dtype)
        return self.out(features[-1].to(x.dtype)).to(x.dtype)
