"""Quantizers by name."""

import pytest
import quadratics
import torch
from small import convolutions

from flatdiff.measure import quantizers
from flatdiff.measure.subject import Subject
from flatdiff.quantization import ranges
from flatdiff.quantization.grid import Quantizer


def test_a_list_is_read_with_the_knobs_of_each():
    found = quantizers.listed("minmax, mse granularity=channel symmetric=True", "8,3,8")
    channel = Quantizer(3, "channel", True, ranges.mse)
    assert list(found) == [
        ("minmax", 8),
        ("minmax", 3),
        ("mse granularity=channel symmetric=True", 8),
        ("mse granularity=channel symmetric=True", 3),
    ]
    assert found["minmax", 8] == Quantizer(8) and [*found.values()][-1] == channel


def test_what_is_no_quantizer_is_told():
    for text, message in (
        ("minmax share=0.9", "minmax has no knob 'share'"),
        ("minmax symmetric=2", "minmax symmetric=2: got '2', expected True or False"),
        ("mse granularity=row", "granularity of a quantizer is 'row'"),
        ("nearest", "got 'nearest', expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            quantizers.quantizer(text, 4)


def test_each_weight_of_layers_comes_once():
    net = convolutions()
    net.append(torch.nn.Linear(5, 5))
    net.append(torch.nn.Linear(5, 5))
    net[-1].weight = net[-2].weight
    subject = Subject("a", net, lambda net, x: net(x).sum(1), torch.randn(3, 3, 8, 8), size=3)
    assert list(quantizers.layers(subject)) == ["0", "3", "5", "6"]
    rounded = quantizers.rounded(subject, Quantizer(3))
    for name, w in quantizers.layers(subject).items():
        assert torch.equal(rounded[name].codes, Quantizer(3)(w).codes)
    assert list(quantizers.layers(quadratics.subject())) == ["layers.0", "layers.1"]
