"""Symmetries leave outputs as they are, and balanced noise knows no network from its transforms."""

import numpy as np
import pytest
import torch
from networks import batch, tiny
from torch import nn

from flatdiff.measure import units
from flatdiff.nets import symmetries
from flatdiff.nets.classifier import EncoderUNetModel
from flatdiff.nets.vit import ViT
from flatdiff.weights import perturb


def vit():
    torch.manual_seed(0)
    model = ViT(8, 3, 16, 3, patch_size=4, num_layers=2, num_heads=2)
    for w in model.parameters():
        nn.init.normal_(w, std=0.2)
    return model


NETWORKS = {
    "film": tiny,
    "added": lambda: tiny(use_scale_shift_norm=False, resblock_updown=True),
    "new order": lambda: tiny(use_new_attention_order=True, channel_mult=(1, 3)),
    "vit": vit,
}
OF_VIT = ["q against k", "value against proj", "turned heads", "permuted channels"]


def outputs(model, move=None):
    """What a network gives, or where its weights, moved by so much."""
    weights = list(model.parameters())
    with torch.no_grad(), perturb.at(weights, move or (lambda w: None)):
        return model(*batch(dtype=torch.float64))


def noised(model):
    """What it gives where balanced noise, the same for all, has moved it."""
    linear, weights = symmetries.balanced(model), list(model.parameters())
    noise = [z.double() for z in perturb.noise(weights, 0, 0)]
    linear.apply_(noise, weights)
    return outputs(model, perturb.along(noise, 1e-2))


@pytest.mark.parametrize("name", NETWORKS)
def test_symmetries_leave_outputs_and_balanced_noise_as_they_are(name):
    model = NETWORKS[name]().double().eval()
    before, moved = outputs(model), noised(model)
    assert (moved - before).norm() > 1e-2 * before.norm()
    found = symmetries.of_network(model, 3.0)
    assert [*found] == (OF_VIT if name == "vit" else ["conv into norm", *OF_VIT])
    weights = [w.clone() for w in model.parameters()]
    for linear in found.values():
        with units.held(list(model.parameters()), linear):
            distance = sum((a - b).norm() for a, b in zip(model.parameters(), weights))
            assert distance > 1  # else nothing was tried
            after, again = outputs(model), noised(model)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
        torch.testing.assert_close(again, moved, rtol=0, atol=1e-9)
    torch.testing.assert_close(outputs(model), before, rtol=0, atol=0)


def test_every_channel_before_a_norm_and_every_head_takes_part():
    model = tiny()
    blocks = [m for m in model.modules() if type(m).__name__ == "ResBlock"]
    heads = [m for m in model.modules() if type(m).__name__ == "AttentionBlock"]
    found = {id(p.weight) for p in symmetries.of_network(model)["conv into norm"].parts}
    assert {id(b.in_layers[2].weight) for b in blocks} < found and len(found) == 2 * len(blocks)
    found = [p for p in symmetries.of_network(model)["q against k"].parts if p.weight.ndim > 1]
    assert {id(p.weight) for p in found} == {id(h.qkv.weight) for h in heads}
    rows = torch.cat([p.of.flatten() for p in found if p.weight is heads[0].qkv.weight])
    channels = heads[0].channels
    legacy = torch.arange(3 * channels).view(2, 3, -1)[:, :2]  # [head][q|k|v][ch]
    assert sorted(rows.tolist()) == sorted(legacy.flatten().tolist())


def test_the_transpose_is_that_of_the_map():
    model = tiny().double()
    weights, linear = list(model.parameters()), symmetries.balanced(model)
    x, y = ([z.double() for z in perturb.noise(weights, 0, draw)] for draw in (0, 1))
    of_x, of_y = ([z.clone() for z in part] for part in (x, y))
    linear.apply_(of_x, weights)
    linear.transposed.apply_(of_y, weights)
    left, right = (
        float(sum((a * b).sum() for a, b in zip(*pair))) for pair in ((of_x, y), (x, of_y))
    )
    assert left == pytest.approx(right, rel=1e-12)
    assert abs(left - sum((a * b).sum() for a, b in zip(x, y))) > 1


def test_balanced_factors_are_those_of_the_singular_value_decomposition():
    """X = A a^T: A has orthogonal columns, of the lengths that numpy's singular values say."""
    draw = np.random.default_rng(0)
    x, y = (torch.from_numpy(draw.standard_normal((1, 7, 3))) for _ in range(2))
    for factor in (1, 1000):
        a, b = symmetries._factors(x * factor, y / factor)
        left, right = x * factor @ torch.linalg.inv(a).mT, y / factor @ torch.linalg.inv(b).mT
        torch.testing.assert_close(left @ right.mT, x @ y.mT)
        values = np.linalg.svd((x @ y.mT)[0].numpy())[1][:3]
        for half in (left, right):
            np.testing.assert_allclose((half.mT @ half)[0], np.diag(values), atol=1e-10)


def test_zeros_are_left_as_they_are():
    """A new network's projection is zero, and says nothing of its values."""
    a, b = symmetries._factors(torch.zeros(1, 5, 2).double(), torch.ones(1, 5, 2).double())
    assert a.isfinite().all() and b.isfinite().all()


def test_filters_before_a_norm_have_length_one_in_the_canonical_form():
    model = tiny().double()
    block = next(m for m in model.modules() if type(m).__name__ == "ResBlock")
    conv = block.in_layers[2].weight
    ones = torch.ones_like(conv)
    symmetries.balanced(model).apply_([ones], [conv])
    lengths = conv.detach().flatten(1).norm(dim=1)  # 32 channels in 32 groups
    torch.testing.assert_close(ones[:, 0, 0, 0], lengths)


def test_networks_without_a_known_symmetry_are_refused():
    for of in (symmetries.of_network, symmetries.balanced):
        with pytest.raises(
            ValueError, match="Sequential has no residual block .* and no attention"
        ):
            of(nn.Sequential(nn.Linear(2, 2)))
    model = EncoderUNetModel(8, 3, 32, 10, 1, (), channel_mult=(1,), pool="adaptive")
    assert symmetries.of_network(model)["conv into norm"].parts
