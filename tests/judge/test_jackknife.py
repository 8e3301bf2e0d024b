"""The jackknife over images: groups, and an error that is known."""

import numpy as np
import pytest
import torch

from flatdiff.judge import jackknife


def test_groups_are_a_shuffle_that_only_size_and_seed_decide():
    groups = jackknife.groups(57, 3)
    assert sorted(torch.cat(groups).tolist()) == list(range(57))
    assert {len(group) for group in groups} == {5, 6} and len(groups) == 10
    assert all(torch.equal(a, b) for a, b in zip(groups, jackknife.groups(57, 3)))
    assert not torch.equal(groups[0], jackknife.groups(57, 4)[0])


def test_the_error_of_a_mean_is_that_of_the_groups_means():
    x = np.random.default_rng(0).standard_normal(200)
    groups = [x[g.numpy()] for g in jackknife.groups(200)]
    left_out = [np.concatenate(groups[:i] + groups[i + 1 :]).mean() for i in range(10)]
    expected = np.std([g.mean() for g in groups], ddof=1) / 10**0.5
    assert jackknife.error(left_out) == pytest.approx(expected)
    assert np.isnan(jackknife.error([]))


def test_features_of_other_widths_are_refused():
    with pytest.raises(ValueError, match="has 4 features an image, the samples 3: measure both"):
        jackknife.check_widths(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 3))
