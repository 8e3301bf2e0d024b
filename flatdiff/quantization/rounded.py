"""Rounded weights as a perturbation of a network: what `image_sample_quant.py` samples from."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .grid import Quantized, layers_of


class Rounded:
    """w' = w as its codes say: a perturbation of the convolutions and linear layers of a network.

    quantizer: weight -> Quantized. skip: patterns of layers to leave out. `weights_of` says which
    weights of a network are meant; called with a list of such, it rounds them in place.
    """

    def __init__(self, quantizer: Callable[[Tensor], Quantized], skip: Sequence[str] = ()):
        self.quantizer, self.skip = quantizer, skip

    def weights_of(self, net: nn.Module) -> list[Tensor]:
        """Return the weights of the layers, each once."""
        weights = {id(layer.weight): layer.weight for layer in layers_of(net, self.skip).values()}
        return list(weights.values())

    def __call__(self, weights: list[Tensor]) -> None:
        for w in weights:
            if not torch.isfinite(w).all():
                raise ValueError("a weight is not finite, so it has no range to quantize")
            w.copy_(self.quantizer(w).dequantize())
