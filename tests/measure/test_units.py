"""Moves in units of weights, filters and the canonical form."""

import numpy as np
import pytest
import torch
from networks import tiny
from torch import nn

from flatdiff.measure import units
from flatdiff.nets import symmetries
from flatdiff.weights import perturb


class Of:
    """A subject as `units` knows it."""

    def __init__(self, model):
        self.model, self.weights = model, list(model.parameters())


def test_noise_in_units_of_weights_is_z_times_their_sizes():
    torch.manual_seed(0)
    subject = Of(nn.Linear(3, 4).double())
    z = list(perturb.noise(subject.weights, 5, 2))
    expected = [w.detach().numpy() for w in subject.weights]
    expected = [w + 0.1 * abs(w) * z.numpy() for w, z in zip(expected, z)]
    with perturb.at(subject.weights, units.noise(perturb.gaussian, subject, "weight")(0.1, 5, 2)):
        for w, e in zip(subject.weights, expected):
            np.testing.assert_allclose(w.detach(), e, rtol=1e-6)


def test_the_radius_of_a_sphere_is_its_length_in_the_units():
    subject = Of(nn.Linear(3, 4))
    before = [w.detach().clone() for w in subject.weights]
    with perturb.at(subject.weights, units.noise(perturb.sphere, subject, "weight")(0.3, 5, 2)):
        moves = [(w.detach() - b) / b for w, b in zip(subject.weights, before)]
    assert torch.cat([m.flatten() for m in moves]).norm() == pytest.approx(0.3, rel=1e-5)


def test_absolute_and_filter_noise_is_that_of_perturb():
    for scale in ("absolute", "filter"):
        assert units.noise(perturb.gaussian, None, scale) is perturb.gaussian


@pytest.mark.parametrize("scale", ["absolute", "filter", "weight", "canonical"])
def test_maps_are_each_others_transpose(scale):
    subject = Of(tiny())
    there, back = units.maps(subject, scale)
    x, y = (list(perturb.noise(subject.weights, 0, draw)) for draw in (0, 1))
    of_x, of_y = ([z.clone() for z in part] for part in (x, y))
    there(of_x)
    back(of_y)
    left, right = (
        float(sum((a * b).double().sum() for a, b in zip(*p))) for p in ((of_x, y), (x, of_y))
    )
    assert left == pytest.approx(right, rel=1e-4)
    same = all(torch.equal(a, b) for a, b in zip(x, of_x))
    assert same == (scale == "absolute")


def test_weights_and_what_norms_add_come_back_also_after_an_error():
    model = tiny()
    linear = symmetries.of_network(model)["conv into norm"]
    weights, norms = list(model.parameters()), [*linear.eps]
    before = [w.detach().clone() for w in weights]
    with pytest.raises(KeyError), units.held(weights, linear):
        assert [norm.eps for norm in norms] == pytest.approx([1e-7] * len(norms))
        raise KeyError
    assert all(norm.eps == 1e-5 for norm in norms)
    assert all(torch.equal(w, b) for w, b in zip(weights, before))
