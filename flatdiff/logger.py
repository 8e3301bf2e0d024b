"""guided-diffusion's name for `world.logger`: a name replaced here acts there."""

import sys

from .world import logger

sys.modules[__name__] = logger
