"""guided-diffusion's name for `train.train_util`: a name replaced here acts there."""

import sys

from .train import train_util

sys.modules[__name__] = train_util
