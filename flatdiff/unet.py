"""guided-diffusion's name for `nets.unet`: a name replaced here acts there."""

import sys

from .nets import unet

sys.modules[__name__] = unet
