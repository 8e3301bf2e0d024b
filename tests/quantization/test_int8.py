"""Integer arithmetic against the simulation in float64."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from small import convolutions, quantized_layers

from flatdiff.quantization import int8
from flatdiff.quantization.grid import Quantizer


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("input_bits", [7, 4])
def test_int8_arithmetic_equals_the_simulation(granularity, input_bits):
    model, x = convolutions(), torch.randn(3, 3, 8, 8) * torch.tensor([1, 5, 0.2]).view(-1, 1, 1, 1)
    layers, quantized = quantized_layers(model, bits=8, granularity=granularity, symmetric=True)
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
    code = "from flatdiff.quantization.int8 import check\n"
    code += "check(7, 8); check(8, 7); print('exact'); check(8, 8)"
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.stdout == "exact\n" and run.returncode != 0, run.stderr
    assert "ValueError: this CPU" in run.stderr and "--quant_activations 7" in run.stderr
