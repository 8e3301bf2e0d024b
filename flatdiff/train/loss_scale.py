"""fp16's dynamic loss scale: gradients too small for fp16 are made larger on their way."""

from ..world import logger


class LossScale:
    """guided-diffusion's dynamic loss scale for fp16: 2 ** lg, halved on overflow."""

    def __init__(self, growth=1e-3, lg=20.0):
        self.growth, self.lg = growth, lg

    @property
    def factor(self):
        return 2.0**self.lg

    def update(self, finite):
        """True if the step may be taken."""
        self.lg += self.growth if finite else -1
        if not finite:
            logger.log(f"fp16 gradients overflowed, decreased lg_loss_scale to {self.lg:.4g}")
        if self.lg < -20:
            raise FloatingPointError(
                "gradients stay infinite or NaN at any loss scale: training has diverged. Go on "
                "from an earlier checkpoint with a lower --lr, or with --dtype fp32 or bf16"
            )
        return finite
