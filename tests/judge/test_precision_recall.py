"""Precision and recall of points whose neighbours one can count."""

import numpy as np
import pytest
import torch
from small import RNG

from flatdiff.judge import precision_recall as precision_recall_module
from flatdiff.judge.precision_recall import precision_recall


def tensors(*arrays):
    return [torch.as_tensor(array, dtype=torch.float64) for array in arrays]


def test_precision_and_recall_of_points_on_a_line():
    reference = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]])
    samples = torch.tensor([[-2.9], [-3.1], [2.5], [300.0], [301.0], [302.0], [303.0]])
    # third neighbours of 0 1 2 3 are 3 2 2 3 away: -2.9 and 2.5 lie inside, -3.1 just outside;
    # that of -2.9 is 302.9 away, so that its ball holds the reference
    assert precision_recall(reference[:4], samples) == (2 / 7, 1.0)
    # that of 100 is 99 away: its ball ends before 300
    assert precision_recall(reference, samples) == (2 / 7, 1.0)
    assert precision_recall(samples[3:], reference) == (0.0, 0.0)
    assert precision_recall(reference, reference) == (1.0, 1.0)


def test_precision_and_recall_in_blocks_equal_those_at_once(monkeypatch):
    x, y = RNG.standard_normal((53, 3)), 1 + 0.8 * RNG.standard_normal((41, 3))

    def share_inside(points, centers):
        among = np.linalg.norm(centers[:, None] - centers, axis=2)
        radii = np.sort(among, axis=1)[:, 3]  # 0 is the point itself
        distances = np.linalg.norm(points[:, None] - centers, axis=2)
        return (distances <= radii).any(1).mean()

    expected = (share_inside(y, x), share_inside(x, y))
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1
    for block in (7, 1000):
        monkeypatch.setattr(precision_recall_module, "BLOCK", block)
        assert precision_recall(*tensors(x, y)) == pytest.approx(expected)


def test_a_point_is_not_its_own_neighbour():
    twins = torch.tensor([[0.0], [0.0], [0.0], [1.0], [5.0]])
    assert precision_recall(twins, torch.tensor([[-0.5], [-1.5], [5.0], [5.0], [5.0]])) == (
        4 / 5,
        1.0,
    )
