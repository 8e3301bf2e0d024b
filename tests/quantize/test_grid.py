"""Quantizers against torch's own, against their definition, and against the optimum of Max (1960);
packed storage and int8 arithmetic against the simulation."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatdiff.flags import choices, config, parse
from flatdiff.measure import quantized
from flatdiff.quantize import grid as qz
from flatdiff.quantize import int8, packing, ranges
from flatdiff.quantize.grid import Quantizer
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


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


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


# Least mean squared error of a uniform quantizer of a standard normal: Max, IRE Trans. IT-6, 1960.
MAX = {2: 0.1188, 3: 0.03744, 4: 0.01154, 5: 0.003495}


@pytest.mark.parametrize("bits", MAX)
def test_least_squares_clipping_is_near_the_optimum(bits):
    w = torch.randn(300, 1000)
    errors = {
        ends.__name__: (Quantizer(bits, ends=ends)(w).dequantize() - w).square().mean().item()
        for ends in (ranges.minmax, ranges.mse)
    }
    assert 0.99 * MAX[bits] < errors["mse"] < (1.45 if bits == 2 else 1.15) * MAX[bits]
    assert errors["mse"] < errors["minmax"] / 2
    by_channel = Quantizer(bits, granularity="channel", ends=ranges.mse)(w).dequantize()
    assert (by_channel - w).square().mean() < errors["mse"]


def test_least_squares_clipping_does_not_depend_on_units():
    w = torch.randn(4, 50)
    codes = [Quantizer(3, ends=ranges.mse)(w * 2.0**k).codes for k in (-90, 0, 90)]
    assert torch.equal(codes[0], codes[1]) and torch.equal(codes[2], codes[1])


def test_bad_settings_are_named():
    for settings in (dict(bits=1), dict(bits=9), dict(bits=16), dict(bits=8, granularity="row")):
        with pytest.raises(ValueError, match="expected one of"):
            Quantizer(**settings)


def percentile(x, quantizer, *, share=0.5):
    """The least value, and the one that a share of all lies below."""
    return x.amin(), x.flatten().quantile(share)


def test_a_quantizer_is_a_function_and_a_line(monkeypatch, capsys):
    toy = SimpleNamespace(percentile=percentile)
    monkeypatch.setitem(sys.modules, "flatdiff.quantize.toy", toy)
    line = choices.Choice("quantize.toy:percentile", "at a percentile of the weights")
    monkeypatch.setitem(choices.QUANTIZERS, "percentile", line)

    def quantizer(text):
        argv = ["--quant", "8", "--quant_range", text]
        return quantized._quantizer(parse.parse("", argv, quant=config.QuantFlags).quant)

    w = torch.arange(101.0)  # where a share p of all lies below 100 p
    for text, end in (("percentile", 50), ("percentile share=0.9", 90), ("minmax", 100)):
        torch.testing.assert_close(
            quantizer(text)(w).dequantize(), w.clamp(max=end), atol=0.2, rtol=0
        )
    with pytest.raises(ValueError, match="no knob 'to'; it has share"):
        quantizer("percentile to=0.9")
    with pytest.raises(SystemExit):
        quantizer("percentil")
    assert "expected one of minmax, mse, percentile; did you mean" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse.parse("", ["--help"], quant=config.QuantFlags)
    said = " ".join(capsys.readouterr().out.split())
    assert "{minmax,mse,percentile}" in said and "at a percentile of the weights" in said


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(4, 8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    ).eval()


def quantize_all(model, **settings):
    layers = qz.layers_of(model)
    return layers, qz.quantize_weights(layers, Quantizer(**settings))


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
        {"a": network(), "label_emb": nn.Embedding(4, 4), "b": nn.Conv1d(2, 2, 1)}
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
        quantize_all(model, bits=8)


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
    handle.remove()
    assert not torch.allclose(layer(x), expected)


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_tensors_give_the_weights_back_to_the_bit(bits):
    model = network()
    layers, quantized = quantize_all(model, bits=bits, granularity="channel")
    tensors = packing.pack(model.state_dict(), quantized)
    per_byte = 2 if bits <= 4 else 1
    for name, layer in layers.items():
        count = layer.weight.numel()
        assert tensors[f"{name}.weight.codes"].nbytes == -(-count // per_byte)
        assert f"{name}.weight" not in tensors
    state = packing.unpack(tensors)
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        layer = name.removesuffix(".weight")
        expected = quantized[layer].dequantize() if layer in quantized else value
        assert torch.equal(state[name], expected) and state[name].dtype == torch.float32
    again = packing.packed_weights(tensors)
    assert all(torch.equal(again[name].codes, quantized[name].codes) for name in layers)


def test_codes_in_bytes_by_hand():
    assert packing.pack_codes(torch.tensor([[1, 2, 15]], dtype=torch.uint8)).tolist() == [33, 15]
    assert packing.pack_codes(torch.tensor([1, 16], dtype=torch.uint8)).tolist() == [1, 16]
    for count in (1, 2, 3, 7):
        codes = torch.randint(0, 16, (count, 1), dtype=torch.uint8)
        assert torch.equal(packing.unpack_codes(packing.pack_codes(codes), (count, 1)), codes)


def test_files_without_packed_weights_are_left_alone():
    state = network().state_dict() | {"param_groups": []}
    assert packing.unpack(state) == state


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_stay_packed_in_memory(bits, layout):
    model, x = network().to(memory_format=layout), torch.randn(2, 3, 8, 8)
    layers, quantized = quantize_all(model, bits=bits)
    fp32 = sum(layer.weight.nbytes for layer in layers.values())
    others = sum(t.nbytes for t in model.state_dict().values()) - fp32
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(quantized[name].dequantize())
        expected = model(x)
        for name, layer in layers.items():
            packing.keep_packed(layer, quantized[name])
        assert torch.equal(model(x), expected)
    held = sum(t.nbytes for t in model.state_dict().values()) - others
    assert held <= fp32 / (32 / bits) + 16 * len(layers)
    assert model[0].weight.dtype == torch.float32
    assert model[0].weight.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("input_bits", [7, 4])
def test_int8_arithmetic_equals_the_simulation(granularity, input_bits):
    model, x = network(), torch.randn(3, 3, 8, 8) * torch.tensor([1, 5, 0.2]).view(-1, 1, 1, 1)
    layers, quantized = quantize_all(model, bits=8, granularity=granularity, symmetric=True)
    int8.check(8, input_bits)
    assert [int8.suits(layer) for layer in layers.values()] == [True, True, False]
    for name in ("0", "3"):
        layer = layers[name]
        features = torch.randn(3, layer.in_channels, 8, 8) * x.amax((1, 2, 3), keepdim=True)
        image = Quantizer(input_bits, "channel")(features).dequantize().double()
        bias = None if layer.bias is None else layer.bias.double()
        weight = quantized[name].dequantize().double()
        expected = F.conv2d(image, weight, bias, layer.stride, layer.padding)
        int8.use_int8(layer, quantized[name], input_bits)
        with torch.no_grad():
            torch.testing.assert_close(layer(features).double(), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(layer(features[1:2]), layer(features)[1:2])


@pytest.mark.slow
def test_overflowing_int8_arithmetic_is_refused():
    """An older CPU, as oneDNN can play one: 8 by 8 bits overflow its sums, 7 by 8 do not."""
    code = "from flatdiff.quantize.int8 import check\n"
    code += "check(7, 8); check(8, 7); print('exact'); check(8, 8)"
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.stdout == "exact\n" and run.returncode != 0, run.stderr
    assert "ValueError: this CPU" in run.stderr and "--quant_activations 7" in run.stderr


def test_how_far_from_zeros_is_no_share():
    zeros, ones = torch.zeros(4), torch.ones(4)
    assert quantized._off(zeros, zeros) == "0 (of zeros)"
    assert quantized._off(1.5 * ones, ones) == "50.00%"
