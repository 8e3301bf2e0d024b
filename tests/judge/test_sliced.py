"""The sliced distance: scipy in one dimension, normals in closed form, and its scatter."""

import numpy as np
import pytest
import scipy.stats
import torch

from flatdiff.judge import sliced
from flatdiff.judge.sliced import directions, sliced_distance, squared_wasserstein


def tensors(*arrays):
    return [torch.as_tensor(array, dtype=torch.float64) for array in arrays]


@pytest.mark.parametrize("sizes", [(30, 30), (30, 20), (7, 31), (1, 5)])
def test_of_a_row_is_that_of_sorted_repetitions(sizes):
    """W_2^2 of N and M points is that of N M, each repeated; it is no less than scipy's W_1^2."""
    rng = np.random.default_rng(0)
    x, y = (np.sort(rng.standard_normal((3, size))) for size in sizes)
    many = [v.repeat(n, axis=1) for v, n in zip((x, y), sizes[::-1])]
    expected = np.square(many[0] - many[1]).mean(1)
    assert np.allclose(squared_wasserstein(*tensors(x, y)), expected, rtol=1e-12)
    apart = x + 10  # no point of one set is below one of the other: W_1 is the difference of means
    first = [scipy.stats.wasserstein_distance(a, b) for a, b in zip(apart, y)]
    assert np.allclose(apart.mean(1) - y.mean(1), first)
    assert (squared_wasserstein(*tensors(apart, y)) >= torch.tensor(first).square()).all()


def test_points_on_a_line_against_scipys_distance():
    """Of points at 0 and 1, W_2^2 = W_1, whatever their numbers."""
    x, y = np.sort(np.arange(12) % 3 == 0), np.sort(np.arange(35) % 5 < 3)
    expected = scipy.stats.wasserstein_distance(x, y)
    found = squared_wasserstein(*tensors(x[None], y[None]))
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dim", [3, 300])
def test_directions_are_unit_and_orthogonal(dim):
    u = directions(dim, 256)
    assert u.shape == (256, dim)
    block = u[: min(dim, 256)]
    assert torch.allclose(block @ block.T, torch.eye(len(block)).double(), atol=1e-12)


def test_of_a_shift_it_is_the_frechet_distance():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 4)))
    found = sliced_distance(x, x + torch.tensor([1.0, -2.0, 0.0, 3.0]))
    assert found["plain"] == pytest.approx(14, rel=1e-9)  # 256 directions are 64 whole bases


def test_of_normals_it_is_their_closed_form():
    """D (sigma_1 - sigma_2)^2 for isotropic normals, as for each direction."""
    rng = np.random.default_rng(1)
    x, y = (s * rng.standard_normal((1500, 5)) for s in (1.0, 1.5))
    found = sliced_distance(*tensors(x, y))
    assert found["value"] == pytest.approx(5 * 0.25, abs=4 * found["error"])
    assert found["error"] < 0.2


@pytest.mark.parametrize(("number", "scale"), [(60, 1.0), (200, 1.0), (200, 1.4)])
def test_the_error_is_the_scatter_and_little_is_left_of_the_excess(monkeypatch, number, scale):
    monkeypatch.setattr(sliced, "NUM_DIRECTIONS", 32)
    rng = np.random.default_rng(number)
    reference = torch.from_numpy(rng.standard_normal((600, 8)))
    draws = torch.from_numpy(scale * rng.standard_normal((20, number, 8)))
    found = [sliced_distance(reference, x) for x in draws]
    values, errors, plain = (np.array([f[k] for f in found]) for k in ("value", "error", "plain"))
    scatter, error = values.std(ddof=1), np.sqrt(np.mean(np.square(errors)))
    assert 0.75 * scatter < error < 2 * scatter  # at 0 the jackknife is too large, never too small
    truth = 8 * (scale - 1) ** 2
    assert abs(values.mean() - truth) < 0.25 * abs(plain.mean() - truth) + 2 * scatter / 20**0.5
    assert plain.mean() > truth + 4 * scatter / 20**0.5


def test_few_images_have_no_error_and_many_are_cut(monkeypatch):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 3)))
    few = sliced_distance(x, x[:19])
    assert np.isnan(few["error"]) and few["left_out"] == [] and np.isfinite(few["value"])
    monkeypatch.setattr(sliced, "LARGEST", 25)
    assert sliced_distance(x, x)["plain"] == 0  # the same 25 of both
    with pytest.raises(ValueError, match="measure both by the same network"):
        sliced_distance(x, x[:, :2])
