"""guided-diffusion's name for `chain.losses`: a name replaced here acts there."""

import sys

from .chain import losses

sys.modules[__name__] = losses
