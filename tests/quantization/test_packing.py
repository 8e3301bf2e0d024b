"""Codes in bytes, by hand and back to the bit; packed layers compute what the weights do."""

import pytest
import torch
from small import convolutions, quantized_layers

from flatdiff.quantization import packing


@pytest.mark.parametrize("granularity", ["channel", "group"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_tensors_give_the_weights_back_to_the_bit(bits, granularity):
    model = convolutions()
    layers, quantized = quantized_layers(model, bits=bits, granularity=granularity, group=20)
    tensors = packing.pack(model.state_dict(), quantized)
    per_byte = 2 if bits <= 4 else 1
    for name, layer in layers.items():
        count = layer.weight.numel()
        assert tensors[f"{name}.weight.codes"].nbytes == -(-count // per_byte)
        assert f"{name}.weight" not in tensors
        assert (f"{name}.weight.group" in tensors) is (granularity == "group")
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
    state = convolutions().state_dict() | {"param_groups": []}
    assert packing.unpack(state) == state


def spoiled(part, value):
    """The packed tensors of a network, of whose first weight one part is changed."""
    model = convolutions()
    _, quantized = quantized_layers(model, bits=4, granularity="channel")
    tensors = packing.pack(model.state_dict(), quantized)
    return tensors | {f"0.weight.{part}": value(tensors.get(f"0.weight.{part}"))}


def first_set(number):
    return lambda scale: torch.cat([torch.full_like(scale[:1], number), scale[1:]])


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("scale", first_set(0.0), "no lengths"),
        ("scale", first_set(-1.0), "no lengths"),
        ("scale", first_set(float("nan")), "no lengths"),
        ("scale", first_set(float("inf")), "no lengths"),
        ("scale", torch.Tensor.double, "is of torch.float64, expected torch.float32"),
        ("scale", lambda scale: scale[1:], "scales of"),
        ("scale", torch.Tensor.flatten, "scales of"),
        ("zero", lambda zero: zero[1:], "zeros of"),
        ("zero", lambda zero: zero.to(torch.int8), "is of torch.int8"),
        ("codes", lambda codes: codes[1:], "bytes"),
        ("codes", lambda codes: codes.bool(), "is of torch.bool"),
        ("shape", lambda shape: shape * 10**9, "bytes"),
        ("shape", lambda shape: -shape, "no weight is"),
        ("shape", lambda shape: shape[:0], "no weight is"),
        ("shape", lambda shape: shape.float(), "is of torch.float32"),
        ("group", lambda _: torch.tensor(4), "scales of"),
        ("group", lambda _: torch.tensor(-4), "no weight is"),
    ],
)
def test_parts_that_are_no_weight_are_told(part, value, told):
    packing.unpack(spoiled("scale", lambda scale: scale))
    with pytest.raises(ValueError, match=f"0.weight.*{told}"):
        packing.unpack(spoiled(part, value))


KIND = dict(bits=4, granularity="channel", symmetric=False, group=32)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 8])
def test_settings_of_the_quantizer_fit(granularity, symmetric, bits):
    kind = dict(bits=bits, granularity=granularity, symmetric=symmetric, group=20)
    packing.check_settings(quantized_layers(convolutions(), **kind)[1], **kind)


@pytest.mark.parametrize(
    ("was", "told"),
    [
        ({"bits": 5}, "a code or zero 31, and has 4 bits"),
        ({"granularity": "tensor"}, "a grid per tensor, and not per channel"),
        ({"granularity": "group"}, "a grid per group, and not per channel"),
    ],
)
def test_settings_of_another_quantizer_are_told(was, told):
    quantized = quantized_layers(convolutions(), **KIND | was)[1]
    with pytest.raises(ValueError, match=f"the weight of 0 is of another kind: {told}"):
        packing.check_settings(quantized, **KIND)
    if "granularity" not in was:
        return
    with pytest.raises(ValueError, match="zeros off the middle|groups of 32, and not of 20"):
        other = dict(symmetric=was["granularity"] == "tensor", group=20)
        packing.check_settings(quantized, **KIND | was | other)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("granularity", ["tensor", "group"])
def test_weights_stay_packed_in_memory(bits, layout, granularity):
    model, x = convolutions().to(memory_format=layout), torch.randn(2, 3, 8, 8)
    layers, quantized = quantized_layers(model, bits=bits, granularity=granularity)
    grids = sum(q.scale.numel() for q in quantized.values())
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
    assert held <= fp32 / (32 / bits) + 16 * max(grids, len(layers))
    assert model[0].weight.dtype == torch.float32
    assert model[0].weight.is_contiguous(memory_format=layout)
