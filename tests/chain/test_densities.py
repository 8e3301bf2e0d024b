"""Densities over noise levels: their moments, and that they cover all levels."""

import numpy as np
import pytest

from flatdiff.chain import densities
from flatdiff.chain.respace import edm_grid

U = np.log(edm_grid(1000))


@pytest.mark.parametrize("function", [densities.lognormal, densities.logitnormal])
@pytest.mark.parametrize("knobs", [{}, {"p_mean": 0.4, "p_std": 0.8}])
def test_the_moments_of_log_sigma_are_those_asked_for(function, knobs):
    q = function(U, **knobs)
    default = {"lognormal": (-1.2, 1.2), "logitnormal": (0.0, 1.0)}[function.__name__]
    mean, std = knobs.values() or default
    assert q.sum() == pytest.approx(1) and (q > 0).all()
    found = (q * U).sum()
    assert found == pytest.approx(mean, abs=2e-3)
    assert np.sqrt((q * (U - found) ** 2).sum()) == pytest.approx(std, abs=5e-3)


def test_half_of_the_logit_normals_times_lie_where_their_quantiles_do():
    s = (np.arange(1000) + 0.5) / 1000
    q = densities.logitnormal(np.log(s / (1 - s)))
    middle = 1 / (1 + np.exp(0.6745))  # of a standard normal, half lies within 0.6745
    assert q[(s > middle) & (s < 1 - middle)].sum() == pytest.approx(0.5, abs=2e-3)


def test_uniform_is_each_level_alike():
    np.testing.assert_array_equal(densities.uniform(U), np.full(1000, 1e-3))


def test_no_deviation_is_refused():
    with pytest.raises(ValueError, match="p_std is 0.0"):
        densities.lognormal(U, p_std=0.0)
