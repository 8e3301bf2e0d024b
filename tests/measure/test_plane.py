"""Filter-normalized planes, and the line between two networks."""

import pytest
import torch

from flatdiff.measure import plane
from flatdiff.weights import perturb

SHAPES = [(4, 3, 2), (5,), (3, 4)]


def weights(seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g) for shape in SHAPES]


def test_a_step_of_one_is_as_long_as_each_filter():
    w = weights(0)
    for direction in plane.directions(w, seed=3):
        for d, v in zip(direction, w):
            rows = (d.flatten(1), v.flatten(1)) if v.ndim > 1 else (d[None], v[None])
            torch.testing.assert_close(*(r.norm(dim=1) for r in rows))


def test_directions_are_the_same_noise_for_all_networks():
    first, second = plane.directions(weights(0), seed=3)
    assert not torch.equal(first[0], second[0])
    for a, b in zip(first, plane.directions(weights(1), seed=3)[0]):
        rows = [d.flatten(1) if d.ndim > 1 else d[None] for d in (a, b)]
        units = [r / r.norm(dim=1, keepdim=True) for r in rows]
        torch.testing.assert_close(*units)


def test_a_point_of_the_plane():
    w = weights(0)
    d1, d2 = plane.directions(w, seed=0)
    with perturb.at(w, plane.plane((d1, d2), 0.5, -2.0)):
        for here, start, x, y in zip(w, weights(0), d1, d2):
            torch.testing.assert_close(here, start + 0.5 * x - 2 * y)
    with perturb.at(w, plane.plane((d1, d2), 0.0, 0.0)) as distance:
        assert distance == 0


@pytest.mark.parametrize("alpha", [-0.25, 0.0, 0.3, 0.7, 1.0, 1.25])
def test_a_point_of_the_line(alpha):
    w, others = weights(0), weights(1)
    with perturb.at(w, plane.between(others, alpha)):
        for here, start, end in zip(w, weights(0), others):
            torch.testing.assert_close(here, (1 - alpha) * start + alpha * end)
            if alpha in (0.0, 1.0):
                assert torch.equal(here, end if alpha else start)
