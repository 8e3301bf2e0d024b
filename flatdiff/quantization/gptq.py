"""Codes that keep a layer's outputs, instead of the nearest ones (GPTQ, Frantar et al. 2023).

Of a layer's inputs X, one a column, it knows their Gram matrix G = X X'. For each row w of the
weight it looks for codes with a small |(w_q - w) X|^2 = (w_q - w) G (w_q - w)': column after column
is rounded, and what that has cost is made up for, as well as can be, by the columns still to come.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ranges

ENDS = {"minmax": ranges.minmax, "mse": ranges.mse}
BLOCK = 128  # columns, after which the rest is made up for at once
AT_ONCE = 2**30  # bytes of Gram matrices that one pass over the images may fill


@dataclass(frozen=True)
class GPTQ:
    """A quantizer's `ends`, which chooses codes too. damp: of the mean of G's diagonal, what is
    added to it, so that it has an inverse."""

    ends: str = "minmax"
    damp: float = 0.01

    def __post_init__(self):
        if self.ends not in ENDS or not self.damp > 0:
            raise ValueError(
                f"gptq has ends={self.ends} damp={self.damp:g}; expected ends of {', '.join(ENDS)} "
                "and a positive damp"
            )

    def __call__(self, x: Tensor, quantizer) -> tuple[Tensor, Tensor]:
        return ENDS[self.ends](x, quantizer)

    def codes(
        self, w: Tensor, scale: Tensor, zero: Tensor, round_: Callable, gram: Tensor
    ) -> Tensor:
        """Codes of a weight [K, ...], whole fp32 numbers; of a row, the nearest if they do better.

        scale, zero: broadcast to w. round_: (x, scale, zero) -> the nearest codes. gram: G [I, I].
        Algorithm 1 of the paper, in float64; inputs that were never other than 0 have no say.
        """
        rows, scale, zero = (x.expand_as(w).flatten(1) for x in (w, scale, zero))
        nearest = round_(rows, scale, zero)
        gram = gram.to(rows.device, torch.float64)
        chosen, left = nearest.clone(), rows.double()
        upper = _factor(gram, self.damp)
        for start in range(0, left.shape[1], BLOCK):
            stop = min(start + BLOCK, left.shape[1])
            lost = torch.zeros_like(left[:, start:stop])
            for i in range(start, stop):
                column = slice(i, i + 1)
                codes = round_(left[:, column].float(), scale[:, column], zero[:, column])
                chosen[:, column] = codes
                value = (codes - zero[:, column]) * scale[:, column]
                error = (left[:, column] - value) / upper[i, i]
                left[:, i:stop] -= error * upper[i, i:stop]
                lost[:, i - start] = error[:, 0]
            left[:, stop:] -= lost @ upper[start:stop, stop:]
        better = _cost(chosen, rows, scale, zero, gram) < _cost(nearest, rows, scale, zero, gram)
        return torch.where(better[:, None], chosen, nearest).view_as(w)


def _factor(gram: Tensor, damp: float) -> Tensor:
    """U [I, I], upper triangular, with U'U the inverse of the damped Gram matrix."""
    diagonal = gram.diagonal()
    damped = gram + torch.diag_embed(torch.where(diagonal == 0, 1.0, damp * diagonal.mean()))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _cost(codes: Tensor, rows: Tensor, scale: Tensor, zero: Tensor, gram: Tensor) -> Tensor:
    """|(w_q - w) X|^2 of each row."""
    d = ((codes - zero) * scale).double() - rows.double()
    return ((d @ gram) * d).sum(dim=1)


def grams(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, Tensor]:
    """X X' [I, I], float64, of the inputs of each layer while `run` calls the network.

    I: the weights of an output. ValueError for layers that are no plain matrix products.
    """
    sizes = {name: layer.weight[0].numel() ** 2 * 8 for name, layer in layers.items()}
    for name, layer in layers.items():
        check(name, layer)
    found, turn, full = {}, {}, 0
    for name, layer in layers.items():
        if turn and full + sizes[name] > AT_ONCE:
            found |= _seen(turn, run)
            turn, full = {}, 0
        turn[name], full = layer, full + sizes[name]
    return found | _seen(turn, run)


def check(name: str, layer: nn.Module) -> None:
    """ValueError unless the layer multiplies all its inputs by one matrix."""
    plain = isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv1d | nn.Conv2d)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )
    if not plain:
        raise ValueError(
            f"gptq knows linear layers and plain convolutions of one or two dimensions; {name} is "
            "another: leave it out (--quant_skip), or round by minmax or mse"
        )


def _seen(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, Tensor]:
    found = {}

    def add(name, layer, inputs):
        columns = _columns(layer, inputs[0].detach().float())
        found[name] = found.get(name, 0) + (columns @ columns.T).double()

    hooks = [
        layer.register_forward_pre_hook(lambda m, x, name=name: add(name, m, x))
        for name, layer in layers.items()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [name for name in layers if name not in found]:
        raise ValueError(f"the network never called {missing[0]}, so gptq knows no inputs of it")
    return found


def _columns(layer: nn.Module, x: Tensor) -> Tensor:
    """The inputs [I, ...] that the rows of a layer's weight are multiplied by."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).T
    flat = isinstance(layer, nn.Conv1d)
    x = x.unsqueeze(2) if flat else x
    how = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    fills = (1, 1, 0, 1)
    sizes = [(fill, *own) if flat else own for fill, own in zip(fills, how)]
    return F.unfold(x, *sizes).transpose(0, 1).flatten(1)
