"""How often training visits each noise level: densities over levels, by their log-SNR.

A density is a function of u = log(sigma / alpha), float64 [T] and rising, that gives [T] shares.
u is EDM's log(sigma), and on a straight path from image to noise the logit of the time.
"""

import numpy as np
from scipy.special import ndtr

P_MEAN, P_STD = -1.2, 1.2  # of log(sigma), EDM's (Karras et al. 2022, table 1)


def uniform(u: np.ndarray) -> np.ndarray:
    """Each level alike."""
    return np.full(len(u), 1 / len(u))


def lognormal(u: np.ndarray, p_mean: float = P_MEAN, p_std: float = P_STD) -> np.ndarray:
    """u is normal: each level has the mass of what lies nearest to it (Karras et al. 2022)."""
    if not p_std > 0:
        raise ValueError(f"p_std is {p_std}; expected the deviation of log(sigma), above 0")
    edges = np.concatenate([[-np.inf], (u[:-1] + u[1:]) / 2, [np.inf]])
    return np.diff(ndtr((edges - p_mean) / p_std))


def logitnormal(u: np.ndarray, p_mean: float = 0.0, p_std: float = 1.0) -> np.ndarray:
    """The same, by default as straight paths like it best (Esser et al. 2024)."""
    return lognormal(u, p_mean, p_std)
