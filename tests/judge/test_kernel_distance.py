"""The kernel distance against its sum over pairs, and its mean where it must be 0."""

import numpy as np
import pytest
import torch
from small import RNG

from flatdiff.judge.kernel_distance import discrepancy, kernel_distance


def tensors(*arrays):
    return [torch.as_tensor(array, dtype=torch.float64) for array in arrays]


def test_kernel_distance_equals_its_sum_over_pairs():
    x, y = RNG.standard_normal((5, 3)), RNG.standard_normal((4, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    expected = (
        np.mean([kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
        + np.mean([kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
        - 2 * np.mean([kernel(a, b) for a in x for b in y])
    )
    assert discrepancy(*tensors(x, y)) == pytest.approx(expected)


def test_kernel_distance_of_equal_distributions_has_mean_0():
    values = [
        discrepancy(*tensors(*RNG.standard_normal((2, 10, 4)))) for _ in range(400)
    ]  # with the diagonals, the estimate from 10 would be about 2 too large
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert np.std(values) < 4


def test_kernel_distance_is_the_mean_over_subsets():
    x, y = tensors(RNG.standard_normal((60, 4)), 0.5 + RNG.standard_normal((50, 4)))
    mean, deviation = kernel_distance(x, y)
    assert kernel_distance(x, y) == (mean, deviation) != kernel_distance(x, y, seed=1)
    assert abs(mean - discrepancy(x, y)) < 4 * deviation / 10
    assert deviation > 0
