"""guided-diffusion's name for `nets.nn`: the small parts of networks, and the mean of a loss."""

from .nets.nn import *  # noqa: F403
