"""Distances of sets of features: closed forms, scipy, and points placed by hand."""

import numpy as np
import pytest
import scipy.linalg
import torch
from small import RNG

from flatdiff.judge.frechet import (
    distance_with_error,
    floor,
    frechet_distance,
    left_out,
    statistics,
)


def tensors(*arrays):
    return [torch.as_tensor(array, dtype=torch.float64) for array in arrays]


def covariance(dim, rank):
    root = RNG.standard_normal((dim, rank))
    return root @ root.T


def rotation(dim):
    return np.linalg.qr(RNG.standard_normal((dim, dim)))[0]


def test_of_two_normals_in_one_dimension():
    distance = frechet_distance(*tensors([1.0], [[4.0]], [3.5], [[0.25]]))
    assert distance == pytest.approx((1 - 3.5) ** 2 + (2 - 0.5) ** 2)


@pytest.mark.parametrize("zeros", [(0, 0), (7, 0), (0, 7), (7, 3)])
def test_of_covariances_that_commute_also_singular_ones(zeros):
    axes = rotation(12)
    first, second = RNG.uniform(0.1, 5, (2, 12))
    first[: zeros[0]] = 0
    second[: zeros[1]] = 0
    given = tensors(np.ones(12), axes * first @ axes.T, np.zeros(12), axes * second @ axes.T)
    expected = 12 + ((first**0.5 - second**0.5) ** 2).sum()
    assert frechet_distance(*given) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("rank_1", "rank_2"), [(30, 30), (30, 5), (5, 30), (5, 7)])
def test_it_equals_the_formula_with_scipys_root(rank_1, rank_2):
    root_1, root_2 = RNG.standard_normal((20, rank_1)), RNG.standard_normal((20, rank_2))
    s_1, s_2 = root_1 @ root_1.T, root_2 @ root_2.T
    m_1, m_2 = RNG.standard_normal((2, 20))
    if rank_1 == rank_2:
        root = scipy.linalg.sqrtm(s_1 @ s_2)
    elif rank_1 < rank_2:  # A B has the eigenvalues of B A, and 0s; so no singular root is needed
        root = scipy.linalg.sqrtm(root_1.T @ s_2 @ root_1)
    else:
        root = scipy.linalg.sqrtm(root_2.T @ s_1 @ root_2)
    expected = ((m_1 - m_2) ** 2).sum() + np.trace(s_1 + s_2) - 2 * np.trace(root).real
    distance = frechet_distance(*tensors(m_1, s_1, m_2, s_2))
    assert distance == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [4, 20])
def test_of_a_distribution_to_itself_is_0(rank):
    same = tensors(np.ones(20), covariance(20, rank))
    assert 0 <= frechet_distance(*same, *same) < 1e-5


def test_statistics_are_numpys_also_far_from_the_origin():
    features = (1e3 + RNG.standard_normal((9001, 5))).astype(np.float32)
    mu, sigma = statistics(torch.from_numpy(features))
    exact = features.astype(np.float64)
    assert np.allclose(mu, exact.mean(0), rtol=1e-12)
    assert np.allclose(sigma, np.cov(exact, rowvar=False), rtol=1e-9, atol=1e-12)


def test_the_error_bar_is_the_scatter_of_other_samples():
    # N(1, 2^2) against N(0, 1): d = m^2 + (s - 1)^2, var(m) = s^2/N, var(s) = s^2/2N
    number, mean, deviation = 2000, 1.0, 2.0
    variance = (2 * mean * deviation) ** 2 / number
    variance += (2 * (deviation - 1) * deviation) ** 2 / (2 * number)
    reference = tensors([0.0], [[1.0]])
    draws = torch.from_numpy(mean + deviation * RNG.standard_normal((20, number, 1)))
    errors = [distance_with_error(*reference, x)["error"] for x in draws]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(variance**0.5, rel=0.25)


def test_the_line_in_one_over_n_leads_to_the_limit():
    dim, number = 24, 240
    reference = tensors(np.zeros(dim), np.eye(dim))
    found = [
        distance_with_error(*reference, torch.from_numpy(1.2 * x))
        for x in RNG.standard_normal((8, number, dim))
    ]
    limit = dim * 0.2**2
    values = np.mean([f["value"] for f in found])
    infinities = np.array([f["infinity"] for f in found])
    error = np.mean([f["error"] for f in found]) / len(found) ** 0.5
    assert values > limit + 6 * error
    assert abs(infinities.mean() - limit) < 4 * error


def test_real_images_are_as_far_as_new_samples_of_the_same_distribution():
    rng = np.random.default_rng(5)
    data = torch.from_numpy(rng.standard_normal((20_000, 6)))
    found = floor(data, 150, draws=100, seed=1)
    mu, sigma = torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    new = (torch.from_numpy(rng.standard_normal((150, 6))) for _ in range(100))
    expected = [frechet_distance(mu, sigma, *statistics(x)) for x in new]
    error = np.hypot(np.std(expected), np.std(found["values"])) / 10
    assert np.mean(found["values"]) == pytest.approx(np.mean(expected), abs=4 * error)
    assert np.mean(expected) > 20 * error  # a floor, not 0
    limit = found["infinities"]
    assert np.mean(limit) == pytest.approx(0, abs=4 * np.std(limit) / 10 + 0.1 * np.mean(expected))
    (one,) = floor(data, 150, draws=1, seed=7)["values"]
    rows = data[np.random.default_rng(7).integers(len(data), size=150)]
    assert one == pytest.approx(frechet_distance(*statistics(data), *statistics(rows)), rel=1e-9)


def test_the_distance_does_not_depend_on_the_groups():
    features = torch.from_numpy(RNG.standard_normal((57, 6)))
    reference = tensors(np.zeros(6), np.eye(6))
    first, again, other = (distance_with_error(*reference, features, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first["value"] == pytest.approx(other["value"], rel=1e-9)
    assert first["value"] == pytest.approx(frechet_distance(*reference, *statistics(features)))
    few = distance_with_error(*reference, features[:19])
    assert np.isfinite(few["value"]) and np.isnan([few["error"], few["infinity"]]).all()


def test_without_each_group_is_the_distance_of_the_others():
    features = tensors(RNG.standard_normal((60, 3)))[0]
    mu, sigma = tensors(np.ones(3), np.eye(3))
    value, without = left_out(mu, sigma, features, 5, seed=2)
    assert value == pytest.approx(frechet_distance(*statistics(features), mu, sigma))
    groups = np.array_split(np.random.default_rng(2).permutation(60), 5)
    for group, found in zip(groups, without):
        others = features[np.setdiff1d(np.arange(60), group)]
        assert found == pytest.approx(frechet_distance(*statistics(others), mu, sigma))


def test_the_jackknife_of_a_rise_is_the_scatter_of_other_samples():
    """Of two sets row by row alike: the mean error is the scatter of 100 draws, to 20 %."""
    mu, sigma = tensors(np.zeros(4), np.eye(4))
    rises, errors = [], []
    for _ in range(100):
        start = 0.3 + RNG.standard_normal((200, 4))
        moved = 1.2 * start + 0.2 + 0.5 * RNG.standard_normal((200, 4))
        found = [left_out(mu, sigma, *tensors(x), 25) for x in (moved, start)]
        (a, a_parts), (b, b_parts) = found
        rises.append(a - b)
        errors.append(np.sqrt(24 * np.var(np.subtract(a_parts, b_parts))))
    assert np.mean(errors) == pytest.approx(np.std(rises), rel=0.2)
