"""guided-diffusion's name for `world.dist_util`: a name replaced here acts there."""

import sys

from .world import dist_util

sys.modules[__name__] = dist_util
