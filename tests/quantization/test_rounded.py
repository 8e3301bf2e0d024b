"""Rounded weights as a perturbation."""

import pytest
import torch
from torch import nn

from flatdiff.quantization.grid import Quantizer
from flatdiff.quantization.rounded import Rounded
from flatdiff.weights import perturb


def test_each_weight_of_a_product_is_rounded_once():
    shared = nn.Linear(4, 4)
    net = nn.ModuleList([shared, nn.Linear(4, 2), nn.Embedding(3, 4), nn.LayerNorm(4)])
    net[1].weight = nn.Parameter(torch.randn(2, 4))
    twin = nn.Linear(4, 4)
    twin.weight = shared.weight
    net.append(twin)
    rounding = Rounded(Quantizer(3))
    weights = rounding.weights_of(net)
    assert [w.shape for w in weights] == [(4, 4), (2, 4)]
    codes = Quantizer(3)(shared.weight).dequantize()
    with perturb.at(weights, rounding):
        assert torch.equal(shared.weight, codes) and len(net[1].weight.unique()) <= 8
    assert len(shared.weight.unique()) == 16


def test_a_weight_that_is_not_finite_is_refused():
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].weight.data[0, 0] = torch.nan
    with (
        pytest.raises(ValueError, match="not finite"),
        perturb.at(Rounded(Quantizer(8)).weights_of(net), Rounded(Quantizer(8))),
    ):
        pass
