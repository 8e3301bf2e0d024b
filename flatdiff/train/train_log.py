"""The terms of a loss in the log: their means, and those over quarters of the timesteps."""

from ..world import logger


def log_terms(terms, t, num_timesteps, prefix=""):
    """Means of per-image terms [N], over all images and over each quarter of the timesteps t [N].

    Every rank logs all names, also of a quarter that it has no image in.
    """
    quartile = 4 * t // num_timesteps
    for key, values in terms.items():
        logger.logkv_mean(f"{prefix}{key}", values.mean(), len(values))
        for q in range(4):
            part = values[quartile == q]
            mean = part.mean() if len(part) else 0.0
            logger.logkv_mean(f"{prefix}{key}_q{q}", mean, len(part))


def log_loss_dict(diffusion, ts, losses):
    """guided-diffusion's name for log_terms."""
    log_terms({k: v.detach() for k, v in losses.items()}, ts, diffusion.num_timesteps)
