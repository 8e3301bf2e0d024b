"""guided-diffusion's name for `nets`: the networks, their blocks and layers."""

from .nets.blocks import *  # noqa: F403
from .nets.classifier import EncoderUNetModel as EncoderUNetModel
from .nets.layers import *  # noqa: F403
from .nets.unet import SuperResModel as SuperResModel
from .nets.unet import UNetModel as UNetModel
