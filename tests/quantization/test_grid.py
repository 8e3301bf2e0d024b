"""Quantizers against torch's own, and against their definition."""

import pytest
import torch
from small import convolutions, quantized_layers
from torch import nn

from flatdiff.quantization import grid as qz
from flatdiff.quantization import ranges
from flatdiff.quantization.grid import Quantizer
from flatdiff.weights import perturb

SETTINGS = [
    dict(bits=bits, granularity=granularity, symmetric=symmetric, ends=ends)
    for bits in (2, 3, 4, 7, 8)
    for granularity in ("tensor", "channel")
    for symmetric in (False, True)
    for ends in (ranges.minmax, ranges.mse)
]
WEIGHTS = {
    "normal": lambda: torch.randn(6, 5, 3, 3),
    "linear": lambda: torch.randn(4, 7) + 0.5,
    "negative": lambda: -torch.rand(3, 4, 1, 1) - 1,
    "constant": lambda: torch.full((2, 3), 0.7),
    "zeros": lambda: torch.zeros(3, 2, 1),
    "one": lambda: torch.tensor([[-3.0]]),
    "huge": lambda: torch.randn(4, 4) * 1e37,
    "small": lambda: torch.randn(4, 4) * 1e-30,
    "denormal": lambda: torch.randn(4, 4) * 1e-42,
    "channels_last": lambda: torch.randn(4, 5, 3, 3).to(memory_format=torch.channels_last),
}


def grids(w, q):
    """scale and zero as torch's functions want them: a number each per slice of dimension 0."""
    rows = len(w)
    return q.scale.flatten().expand(rows), q.zero.flatten().expand(rows).int()


def told(settings):
    return "-".join(str(getattr(v, "__name__", v)) for v in settings.values())


@pytest.mark.parametrize("settings", SETTINGS, ids=told)
def test_a_quantizer_is_what_it_says(settings):
    bits = settings["bits"]
    for name, make in WEIGHTS.items():
        w = make()
        q = Quantizer(**settings)(w)
        w_q = q.dequantize()
        scale, zero = grids(w, q)
        codes = int(settings["symmetric"]), 2**bits - 1
        torch_q = torch.fake_quantize_per_channel_affine(w, scale, zero, 0, *codes)
        assert torch.equal(w_q, torch_q), name
        if settings["granularity"] == "tensor":
            one = torch.fake_quantize_per_tensor_affine(w, scale[0], zero[0], *codes)
            assert torch.equal(w_q, one), name
            assert len(w_q.unique()) <= 2**bits
        assert all(len(row.unique()) <= 2**bits - settings["symmetric"] for row in w_q)
        assert torch.equal(w_q[w == 0], w[w == 0])
        if settings["ends"] is ranges.minmax:
            half_steps = (w_q - w).abs() / (q.scale / 2)
            assert half_steps.max() <= 1 + 1e-4, name
        if settings["symmetric"]:
            assert torch.equal(Quantizer(**settings)(-w).dequantize(), -w_q), name


@pytest.mark.parametrize("settings", SETTINGS, ids=told)
def test_quantizing_twice_changes_nothing(settings):
    once = Quantizer(**settings)(torch.randn(6, 5, 3, 3))
    twice = Quantizer(**settings)(once.dequantize())
    assert torch.equal(once.codes, twice.codes) and torch.equal(once.zero, twice.zero)
    torch.testing.assert_close(once.dequantize(), twice.dequantize(), rtol=1e-6, atol=0)


def test_codes_by_hand():
    w = torch.tensor([[-1.0, 0.0, 0.3, 2.0]])
    q = Quantizer(2)(w)  # steps of 1 from -1 to 2
    assert q.codes.tolist() == [[0, 1, 1, 3]]
    assert q.dequantize().tolist() == [[-1, 0, 0, 2]]
    q = Quantizer(3, symmetric=True)(w)  # steps of 2/3 from -2 to 2
    assert q.codes.tolist() == [[2, 4, 4, 7]]
    both = Quantizer(8, granularity="channel")(torch.tensor([[0.0, 255], [-510, 0]]))
    assert both.scale.flatten().tolist() == [1, 2] and both.zero.flatten().tolist() == [0, 255]


@pytest.mark.parametrize("ends", [ranges.minmax, ranges.mse])
@pytest.mark.parametrize("symmetric", [False, True])
def test_groups_are_tensors_of_their_own(ends, symmetric):
    """Each chunk of a row is rounded as torch rounds it by its own grid, the short last one too."""
    w = torch.randn(4, 5, 3, 3).to(memory_format=torch.channels_last)
    how = dict(bits=3, symmetric=symmetric, ends=ends)
    q = Quantizer(granularity="group", group=8, **how)(w)
    assert q.codes.shape == w.shape and q.scale.shape == q.zero.shape == (4, 6)  # 45 = 5 x 8 + 5
    found = q.dequantize().flatten(1)
    for k, row in enumerate(w.flatten(1)):
        for i, chunk in enumerate(row.split(8)):
            one = Quantizer(**how)(chunk)
            codes = int(symmetric), 7
            ours = torch.fake_quantize_per_tensor_affine(
                chunk, one.scale.item(), int(one.zero), *codes
            )
            torch.testing.assert_close(found[k, 8 * i : 8 * i + 8], ours, rtol=1e-6, atol=1e-7)
    alone = Quantizer(3, "group", group=45)(w).dequantize()
    assert torch.equal(alone, Quantizer(3, "channel")(w).dequantize())
    whole = Quantizer(3, "channel")(w).dequantize()
    finer = Quantizer(3, "group", group=8)(w).dequantize()
    assert (finer - w).norm() < 0.8 * (whole - w).norm()


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="group of a quantizer is 1; expected 2"):
        Quantizer(4, "group", group=1)
    for settings in (dict(bits=1), dict(bits=9), dict(bits=16), dict(bits=8, granularity="row")):
        with pytest.raises(ValueError, match="expected one of"):
            Quantizer(**settings)


def test_quantized_weights_are_a_perturbation():
    weights = [torch.randn(4, 4), torch.randn(2, 3, 3, 3)]
    before = [w.clone() for w in weights]
    with perturb.at(weights, qz.quantized(3, granularity="channel")) as distance:
        expected = [Quantizer(3, "channel")(w).dequantize() for w in before]
        assert all(map(torch.equal, weights, expected))
        squares = sum(((w - b) ** 2).sum() for w, b in zip(weights, before))
        assert distance.item() == pytest.approx(squares.sqrt().item(), rel=1e-5)
    assert all(map(torch.equal, weights, before))


def test_which_layers():
    model = nn.ModuleDict(
        {"a": convolutions(), "label_emb": nn.Embedding(4, 4), "b": nn.Conv1d(2, 2, 1)}
    )
    assert list(qz.layers_of(model)) == ["a.0", "a.3", "a.5", "b"]
    assert list(qz.layers_of(model, ["a.0", "b"])) == ["a.3", "a.5"]
    assert list(qz.layers_of(model, ["a.*"])) == ["b"]
    with pytest.raises(ValueError, match=r"'out\.\*'.* from a\.0 to b"):
        qz.layers_of(model, ["out.*"])
    with pytest.raises(ValueError, match="no layer is left"):
        qz.layers_of(model, ["*"])
    with torch.no_grad():
        model["a"][3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"a\.3 is not finite"):
        quantized_layers(model, bits=8)


def test_inputs_are_quantized_image_by_image():
    layer = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(5, 3, 8, 8) * torch.logspace(-1, 1, 5).view(-1, 1, 1, 1)
    seen = torch.stack(
        [
            torch.fake_quantize_per_tensor_affine(
                image, q.scale.flatten(), q.zero.flatten().int(), 0, 15
            )
            for image, q in ((image, Quantizer(4)(image)) for image in x)
        ]
    )
    expected = layer(seen)
    handle = qz.quantize_inputs(layer, 4)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[2:3]), expected[2:3])
    with pytest.raises(ValueError, match="no derivative"):
        layer(x.requires_grad_())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
    handle.remove()
    assert not torch.allclose(layer(x), expected)
