"""guided-diffusion's name for `chain.gaussian_diffusion`: a name replaced here acts there."""

import sys

from .chain import gaussian_diffusion

sys.modules[__name__] = gaussian_diffusion
