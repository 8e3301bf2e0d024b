"""guided-diffusion's name for `chain.respace`: a name replaced here acts there."""

import sys

from .chain import respace

sys.modules[__name__] = respace
