"""The kernel distance against its sum over pairs, and its mean where it must be 0."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from small import RNG

from flatdiff.judge import jackknife
from flatdiff.judge import kernel_distance as module
from flatdiff.judge.kernel_distance import discrepancy, error, kernel_distance, left_out


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


def test_the_kernel_is_scikit_learns():
    x, y = RNG.standard_normal((30, 5)), 0.3 + RNG.standard_normal((20, 5))
    pairs = [polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((x, x), (y, y), (x, y))]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in pairs[:2]]
    expected = sum(within) - 2 * pairs[2].mean()
    assert discrepancy(*tensors(x, y)) == pytest.approx(expected, rel=1e-12)


def test_what_is_left_is_the_distance_without_a_group():
    x, y = tensors(RNG.standard_normal((40, 4)), 0.5 + RNG.standard_normal((53, 4)))
    groups = jackknife.groups(53, 2)
    expected = [discrepancy(x, y[torch.cat(groups[:i] + groups[i + 1 :])]) for i in range(10)]
    assert left_out(x, y, seed=2) == pytest.approx(expected, rel=1e-9)
    assert left_out(x, y[:19]) == []
    with pytest.raises(ValueError, match="measure both by the same network"):
        left_out(x, y[:, :3])


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_error_is_the_scatter_over_twenty_draws_of_samples(shift):
    reference = torch.from_numpy(RNG.standard_normal((300, 6)))
    found = []
    for _ in range(20):
        y = torch.from_numpy(shift + RNG.standard_normal((200, 6)))
        value, deviation = kernel_distance(reference, y)
        found.append((value, error(left_out(reference, y), deviation), deviation))
    values, errors, deviations = np.array(found).T
    assert 0.7 * values.std(ddof=1) < np.sqrt(np.mean(errors**2)) < 2 * values.std(ddof=1)
    of_subsets = deviations.mean() / 10  # the error of their mean, if images were not shared
    assert of_subsets < 0.5 * values.std(ddof=1)


def test_the_error_of_many_is_of_as_many_as_fit(monkeypatch):
    x, y = (torch.from_numpy(s + RNG.standard_normal((800, 3))) for s in (0.0, 0.7))
    whole = jackknife.error(left_out(x, y))
    monkeypatch.setattr(module, "LARGEST", 400)
    assert jackknife.error(left_out(x, y)) == pytest.approx(whole, rel=0.6)
