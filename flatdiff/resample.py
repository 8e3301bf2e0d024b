"""guided-diffusion's name for `chain.resample`: a name replaced here acts there."""

import sys

from .chain import resample

sys.modules[__name__] = resample
