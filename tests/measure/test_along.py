"""What is measured along a direction, against closed forms of quadratic losses in float64."""

import pytest
import quadratics
import torch

from flatdiff.measure import along
from flatdiff.weights import perturb


@pytest.fixture
def quadratic():
    """(subject, its weights, a direction, what each example's outputs and their moves are)."""
    subject = quadratics.subject(shared=True)
    torch.manual_seed(1)
    d = [torch.randn_like(w) for w in subject.weights]
    y, move = (
        sum((subject.draws[:, i] * v.detach()).sum(1) for i, v in enumerate(tensors))
        for tensors in (subject.weights, d)
    )
    return subject, subject.weights, d, y - 1, move


def test_slope_curvature_and_rise_of_a_quadratic_loss(quadratic):
    subject, weights, d, off, move = quadratic
    slope, curvature = along.slope_and_curvature(subject, weights, d)
    close = dict(rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, off * move, **close)
    torch.testing.assert_close(curvature, move**2, **close)
    for scale in (0.5, 1.0):
        at = along.slopes(subject, weights, d, scale)
        torch.testing.assert_close(at, (off + scale * move) * move, **close)
        rise = along.rise(subject, weights, d, scale)
        expected = scale * off * move + (scale * move) ** 2 / 2
        torch.testing.assert_close(rise, expected, **close)
    ends = [w.detach() + part for w, part in zip(weights, d)]
    there = along.moved(subject, weights, perturb.replace(ends))
    torch.testing.assert_close(there, off * move + move**2 / 2, **close)


@pytest.mark.parametrize("by_layer", [False, True])
def test_random_directions_are_as_long(by_layer):
    torch.manual_seed(0)
    like = [torch.randn(3, 4), 5 * torch.randn(7), torch.zeros(2)]
    found = [along.random(like, like, 3, draw, by_layer) for draw in (0, 1)]
    for z in found:
        assert along.length(z) == pytest.approx(along.length(like), rel=1e-5)
        assert [x.shape for x in z] == [x.shape for x in like]
    of_parts = [[along.length([x]) for x in tensors] for tensors in (found[0], like)]
    assert (of_parts[0] == pytest.approx(of_parts[1], rel=1e-5)) is by_layer
    flat = [torch.cat([x.flatten() for x in z]) for z in found]
    assert not torch.allclose(*flat)
    assert all(map(torch.equal, found[0], along.random(like, like, 3, 0, by_layer)))
