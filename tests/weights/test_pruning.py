"""Magnitude pruning against NumPy."""

import numpy as np
import pytest
import torch

from flatdiff.weights import perturb, pruning


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return [torch.randn(7, 5), 3 * torch.randn(11), torch.randn(2, 3, 2)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.7, 1.0])
def test_the_smallest_over_all_weights_are_zero_and_the_others_stay(weights, share):
    before = np.concatenate([w.numpy().ravel().copy() for w in weights])
    kept = np.ones(len(before), bool)
    kept[np.argsort(np.abs(before))[: int(share * len(before))]] = False
    with perturb.at(weights, pruning.magnitude(share)) as distance:
        after = np.concatenate([w.numpy().ravel().copy() for w in weights])
    np.testing.assert_array_equal(after, np.where(kept, before, 0))
    assert float(distance) == pytest.approx(np.linalg.norm(before[~kept]), rel=1e-5)
    np.testing.assert_array_equal(np.concatenate([w.numpy().ravel() for w in weights]), before)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_from_0_to_1(share):
    with pytest.raises(ValueError, match=f"share is {share}; expected .* 0 to 1"):
        pruning.magnitude(share)
