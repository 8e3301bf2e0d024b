"""The axis that all chains share."""

import numpy as np

from flatdiff.chain.levels import Levels
from flatdiff.script_util import create_gaussian_diffusion


def test_the_log_snr_of_a_chain_is_that_of_its_alphas_cumprod():
    chain = create_gaussian_diffusion(steps=100, noise_schedule="linear")
    abar = chain.alphas_cumprod
    np.testing.assert_allclose(chain.log_snr, np.log(abar / (1 - abar)))


def test_levels_give_back_their_log_snr():
    for path, predicts in (("vp", "v"), ("flow", "v"), ("edm", "F")):
        levels = Levels(np.linspace(12, -12, 25), path, predicts)
        np.testing.assert_allclose(levels.log_snr, np.linspace(12, -12, 25), atol=1e-10)
    with np.errstate(divide="ignore"):
        assert Levels([0.0, -np.inf], "flow", "v").log_snr[1] == -np.inf
