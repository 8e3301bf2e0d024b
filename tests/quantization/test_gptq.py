"""GPTQ against exhaustive search, a direct solution, and what layers give."""

import itertools

import numpy as np
import pytest
import torch
from small import convolutions
from torch import nn

from flatdiff.quantization import gptq
from flatdiff.quantization.gptq import GPTQ
from flatdiff.quantization.grid import Quantizer, layers_of, quantize_weights


def gram_of(size, seed=0, count=40):
    """X X' [size, size] of inputs that go together."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(size, size)) @ rng.normal(size=(size, count))
    return torch.from_numpy(inputs @ inputs.T)


def cost(q, w, gram):
    d = (q.dequantize().double() - w.double()).flatten(1)
    return torch.einsum("ki,ij,kj->k", d, gram, d)


SETTINGS = [
    dict(granularity="tensor"),
    dict(granularity="channel", symmetric=True),
    dict(granularity="group", group=8),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["granularity"])
def test_no_row_does_worse_than_its_nearest_codes(settings):
    torch.manual_seed(0)
    for bits, size in ((2, 27), (4, 200)):
        w, gram = torch.randn(16, size), gram_of(size)
        found = Quantizer(bits, ends=GPTQ(), **settings)(w, gram)
        nearest = Quantizer(bits, **settings)(w)
        assert torch.equal(found.scale, nearest.scale) and torch.equal(found.zero, nearest.zero)
        ours, theirs = cost(found, w, gram), cost(nearest, w, gram)
        assert (ours <= theirs).all() and ours.sum() < 0.7 * theirs.sum()


def test_of_two_weights_it_lies_between_the_best_and_the_nearest():
    """All pairs of codes of a 3-bit grid are tried. The first weight goes to its nearest code, so
    that the best pair is found in most rows, and not in all."""
    torch.manual_seed(0)
    w, gram = torch.randn(200, 2), gram_of(2, seed=3)
    quantizer = Quantizer(3, granularity="tensor", ends=GPTQ(damp=1e-9))
    found = quantizer(w, gram)
    values = (torch.arange(8.0) - found.zero.float()) * found.scale
    pairs = torch.tensor(list(itertools.product(values.flatten().tolist(), repeat=2))).double()
    d = pairs[:, None] - w.double()
    best = torch.einsum("pki,ij,pkj->pk", d, gram, d).amin(0)
    ours, nearest = cost(found, w, gram), cost(Quantizer(3)(w), w, gram)
    assert (ours >= best * (1 - 1e-9)).all() and (ours <= nearest).all()
    assert (ours <= best * (1 + 1e-9)).double().mean() > 0.6
    assert ours.mean() - best.mean() < 0.5 * (nearest.mean() - best.mean())


def test_it_is_the_direct_solution_column_by_column():
    """After each column, the weights left are those that least squares ask for, by numpy."""
    torch.manual_seed(1)
    w, gram = torch.randn(3, 150).double(), gram_of(150, count=400)
    gram += 0.1 * gram.diagonal().mean() * torch.eye(150)
    quantizer = Quantizer(4, granularity="channel", ends=GPTQ(damp=1e-9))
    codes = quantizer(w, gram).dequantize()
    (scale, zero), g = quantizer.grid(*quantizer.ends(w.float(), quantizer)), gram.numpy()
    for row in range(3):
        own, left, q = w[row].numpy(), w[row].numpy().copy(), np.zeros(150)
        s, z = float(scale[row]), float(zero[row])
        for i in range(150):
            q[i] = (np.clip(np.round(left[i] / s) + z, 0, 15) - z) * s
            rest = slice(i + 1, None)
            fixed = g[rest, : i + 1] @ (q[: i + 1] - own[: i + 1])
            if i < 149:
                left[rest] = own[rest] - np.linalg.solve(g[rest, rest], fixed)
        np.testing.assert_allclose(codes[row].numpy(), q, atol=1e-5)


def test_the_gram_matrix_says_what_a_layer_loses(monkeypatch):
    """|layer(x; w_q) - layer(x; w)|^2, of strided, padded and one-dimensional layers alike; also
    where memory takes two passes."""
    torch.manual_seed(0)
    model, x = convolutions(), torch.randn(6, 3, 8, 8)
    attention = nn.Conv1d(4, 6, 1)
    layers, inputs = layers_of(model), {}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, x, name=name: inputs.update({name: x[0]}))
    with torch.no_grad():
        whole = gptq.grams(layers, lambda: model(x))
        monkeypatch.setattr(gptq, "AT_ONCE", 1)
        parts = gptq.grams(layers, lambda: model(x))
        flat = torch.randn(5, 4, 7)
        whole |= gptq.grams({"qkv": attention}, lambda: [attention(flat), attention(2 * flat)])
        inputs["qkv"] = torch.cat([flat, 2 * flat])
        for name, layer in (layers | {"qkv": attention}).items():
            w = layer.weight.clone()
            q = Quantizer(3)(w)
            before = layer(inputs[name]).double()
            layer.weight.copy_(q.dequantize())
            lost = (layer(inputs[name]).double() - before).square().sum()
            layer.weight.copy_(w)
            assert cost(q, w, whole[name]).sum().item() == pytest.approx(lost.item(), rel=1e-4)
        assert all(torch.equal(parts[name], whole[name]) for name in layers)
        rounded = quantize_weights(layers, Quantizer(3, ends=GPTQ()), whole)
        assert rounded.keys() == layers.keys()


def test_inputs_that_are_never_there_have_no_say():
    torch.manual_seed(0)
    w, gram = torch.randn(4, 10), gram_of(10)
    gram[:, 3] = gram[3] = 0
    found, nearest = Quantizer(2, ends=GPTQ())(w, gram), Quantizer(2)(w)
    assert torch.equal(found.codes[:, 3], nearest.codes[:, 3])
    nothing = Quantizer(2, ends=GPTQ())(w, torch.zeros(10, 10))
    assert torch.equal(nothing.codes, nearest.codes)


def test_what_it_cannot_round_is_told():
    layers = {"a": nn.Conv2d(4, 4, 3, groups=2)}
    with pytest.raises(ValueError, match="plain convolutions of one or two dimensions; a is"):
        gptq.grams(layers, lambda: None)
    with pytest.raises(ValueError, match="never called b"):
        gptq.grams({"b": nn.Linear(2, 2)}, lambda: None)
    with pytest.raises(ValueError, match="for checkpoints with a --data_dir"):
        Quantizer(4, ends=GPTQ())(torch.randn(2, 2))
    for how in (dict(ends="best"), dict(damp=0.0)):
        with pytest.raises(ValueError, match="expected ends of minmax, mse and a positive damp"):
            GPTQ(**how)
