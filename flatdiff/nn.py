"""guided-diffusion's name for `nets.layers`: small parts of networks, and the mean of a loss."""

from .chain.losses import mean_flat as mean_flat
from .kernels.calls import twice_differentiable as twice_differentiable
from .nets.layers import *  # noqa: F403
