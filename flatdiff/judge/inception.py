"""The Inception network that FID means: Google's of 2015, in PyTorch.

Its layers have the names of the published file (pytorch-fid's, which torch-fidelity ships too).
It differs from the Inception-v3 of the paper by 1008 classes, averages that leave out the padding,
and a maximum where the last block would average. Images are resized as TensorFlow 1 did.
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import must_be_named
from .names import INCEPTION_FILE as FILE

URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
SIDE = 299  # pixels
SPATIAL_CHANNELS = 7  # 17 * 17 * 7 = 2023 features for sFID, about as many as FID has


def resize_tf1(images: Tensor, side: int) -> Tensor:
    """Images resized as by tf.image.resize_bilinear: pixel i is read at i * in/out.

    No align_corners, half-pixel shift or antialiasing: nothing like `F.interpolate`. float
    [N, C, H, W].
    """
    for dim in (2, 3):
        size = images.shape[dim]
        place = torch.arange(side, device=images.device, dtype=images.dtype) * (size / side)
        low = place.long()
        share = (place - low).view((-1, 1) if dim == 2 else (-1,))
        start = images.index_select(dim, low)
        stop = images.index_select(dim, (low + 1).clamp(max=size - 1))
        images = start + (stop - start) * share
    return images


class BasicConv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels, out_channels, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Paths side by side, joined over channels.

    A path is a tuple of steps: a pooling function; a convolution (name, out_channels, kernel), or
    (name, out_channels, kernel, stride), which keeps the size unless it has a stride; or a list
    of convolutions that all read the same input.
    """

    def __init__(self, in_channels: int, *paths: tuple):
        super().__init__()
        self.paths = paths
        for path in paths:
            channels = in_channels
            for forks in map(_forks, path):
                for name, *convolution in forks:
                    self.add_module(name, _same_size(channels, *convolution))
                channels = sum(fork[1] for fork in forks) or channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._walk(x, path) for path in self.paths], dim=1)

    def _walk(self, x, path):
        for step in path:
            forks = [getattr(self, name)(x) for name, *_ in _forks(step)]
            x = torch.cat(forks, dim=1) if forks else step(x)
        return x


def _forks(step):
    """The convolutions of a step; none of a pooling."""
    return [] if callable(step) else step if isinstance(step, list) else [step]


def _same_size(in_channels, out_channels, kernel, stride=1):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(k // 2 for k in kernel) if stride == 1 else 0
    return BasicConv(in_channels, out_channels, kernel, stride, padding)


_average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
_maximum = nn.MaxPool2d(3, stride=1, padding=1)
_halve = nn.MaxPool2d(3, stride=2)


def _block_35(in_channels, pooled):
    return Mixed(
        in_channels,
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        (_average, ("branch_pool", pooled, 1)),
    )


def _block_35_to_17(in_channels):
    return Mixed(
        in_channels,
        (("branch3x3", 384, 3, 2),),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
        (_halve,),
    )


def _block_17(in_channels, width):
    row, column = (1, 7), (7, 1)
    twice = ((width, 1), (width, column), (width, row), (width, column), (192, row))
    return Mixed(
        in_channels,
        (("branch1x1", 192, 1),),
        (("branch7x7_1", width, 1), ("branch7x7_2", width, row), ("branch7x7_3", 192, column)),
        tuple((f"branch7x7dbl_{i}", *conv) for i, conv in enumerate(twice, start=1)),
        (_average, ("branch_pool", 192, 1)),
    )


def _block_17_to_8(in_channels):
    once = ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2))
    return Mixed(
        in_channels,
        (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)),
        tuple((f"branch7x7x3_{i}", *conv) for i, conv in enumerate(once, start=1)),
        (_halve,),
    )


def _block_8(in_channels, pool):
    def cross(name):
        return [(f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))]

    return Mixed(
        in_channels,
        (("branch1x1", 320, 1),),
        (("branch3x3_1", 384, 1), cross("branch3x3_2")),
        (("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), cross("branch3x3dbl_3")),
        (pool, ("branch_pool", 192, 1)),
    )


class Inception(nn.Module):
    """uint8 [N, 3, H, W] -> {"pool": [N, 2048], "spatial": [N, 2023]}, float32."""

    dim = 2048
    resize = f"bilinear without antialiasing to {SIDE}x{SIDE}, as TensorFlow 1 (FID's own)"

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv(80, 192, 3)
        self.Mixed_5b = _block_35(192, pooled=32)
        self.Mixed_5c = _block_35(256, pooled=64)
        self.Mixed_5d = _block_35(288, pooled=64)
        self.Mixed_6a = _block_35_to_17(288)
        self.Mixed_6b = _block_17(768, width=128)
        self.Mixed_6c = _block_17(768, width=160)
        self.Mixed_6d = _block_17(768, width=160)
        self.Mixed_6e = _block_17(768, width=192)
        self.Mixed_7a = _block_17_to_8(768)
        self.Mixed_7b = _block_8(1280, pool=_average)
        self.Mixed_7c = _block_8(2048, pool=_maximum)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = (resize_tf1(images.float(), SIDE) - 128) / 128  # [N, 3, 299, 299]
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # [N, 64, 147, 147]
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halve(x)))  # [N, 192, 71, 71]
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_halve(x))))  # [N, 288, 35, 35]
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))  # [N, 768, 17, 17]
        # TensorFlow's mixed_6/conv, flattened with the channels last as statistics files have it
        spatial = self.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_6e(self.Mixed_6d(x))  # [N, 768, 17, 17]
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # [N, 2048, 8, 8]
        return {"pool": x.mean((2, 3)), "spatial": spatial}


def load(weights: str, **_) -> Inception:
    """The network with the weights of the published file `weights`; ValueError if it is another."""
    if not os.path.isfile(weights):
        raise ValueError(f"no Inception weights at {os.path.abspath(weights)}; get them from {URL}")
    must_be_named(weights, FILE, URL)
    try:
        state = dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ValueError(f"{weights} cannot be read as weights; get {FILE} from {URL}") from error
    network = Inception()
    own = network.state_dict()
    lacks = [key for key in own.keys() - state if not key.endswith("num_batches_tracked")]
    others = [key for key in state if key not in own or state[key].shape != own[key].shape]
    if lacks or others:
        raise ValueError(
            f"{weights} is not the file {FILE}: it lacks {len(lacks)} keys {sorted(lacks)[:3]}, "
            f"and {len(others)} others have no place {others[:3]}; get it from {URL}"
        )
    network.load_state_dict(state, strict=False)
    return network.eval()
