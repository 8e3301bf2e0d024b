"""guided-diffusion's name for `nets.nn`: the small parts of networks, and the mean of a loss."""

from .chain.losses import mean_flat as mean_flat
from .kernels.calls import twice_differentiable as twice_differentiable
from .nets.nn import *  # noqa: F403
