"""Ends of a quantizer's range against the optimum of Max (1960); a new one is a line."""

import sys
from types import SimpleNamespace

import pytest
import torch

from flatdiff.flags import choices, config, parse
from flatdiff.measure import quantized
from flatdiff.quantization import ranges
from flatdiff.quantization.grid import Quantizer

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


def percentile(x, quantizer, *, share=0.5):
    """The least value, and the one that a share of all lies below."""
    return x.amin(), x.flatten().quantile(share)


def test_a_quantizer_is_a_function_and_a_line(monkeypatch, capsys):
    toy = SimpleNamespace(percentile=percentile)
    monkeypatch.setitem(sys.modules, "flatdiff.quantization.toy", toy)
    line = choices.Choice("quantization.toy:percentile", "at a percentile of the weights")
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
    assert "expected one of minmax, mse, gptq, percentile; did you mean" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse.parse("", ["--help"], quant=config.QuantFlags)
    said = " ".join(capsys.readouterr().out.split())
    assert "{minmax,mse,gptq,percentile}" in said and "at a percentile of the weights" in said
