"""Inputs of layers on grids that were fixed beforehand, one for each bin of timesteps.

What a layer sees grows and shrinks along the chain, so that one grid for all of it is too wide
nearly everywhere (Q-Diffusion, Li et al. 2023; PTQ4DM, Shang et al. 2023). A grid of `grid`'s
`quantize_inputs` follows each image instead, and has to be measured at each call.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .grid import Quantizer, without_gradient


@dataclass(frozen=True)
class Ranges:
    """edges [bins - 1]: the timesteps, as the network is told them, that part the bins. ends: by
    layer, (least, largest) values [bins] of its inputs."""

    edges: Tensor
    ends: dict[str, tuple[Tensor, Tensor]]


@contextlib.contextmanager
def told(net: nn.Module) -> Iterator[list[Tensor]]:
    """A list whose only item is the timesteps [N] with which the network was called last.

    Its `forward` is another one inside; calls of one that was taken before are not seen.
    """
    own, forward, now = vars(net).get("forward"), net.forward, [torch.empty(0)]

    def called(x, timesteps, *args, **kwargs):
        now[0] = timesteps
        return forward(x, timesteps, *args, **kwargs)

    net.forward = called
    try:
        yield now
    finally:
        del net.forward
        if own is not None:
            net.forward = own


@torch.no_grad()
def calibrated(
    net: nn.Module, layers: Mapping[str, nn.Module], run: Callable[[], object], bins: int
) -> Ranges:
    """The ranges of the layers' inputs while `run` calls the network, in bins of as many images."""
    seen = {name: [] for name in layers}
    with contextlib.ExitStack() as held:
        now = held.enter_context(told(net))

        def keep(name: str, x: Tensor) -> None:
            x, t = x.detach().float(), now[0]
            rows = x.flatten(1) if len(x) == len(t) else x.reshape(1, -1).expand(len(t), -1)
            columns = t.double(), rows.amin(1).double(), rows.amax(1).double()
            seen[name].append(torch.stack([column.cpu() for column in columns]))

        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda _, x, name=name: keep(name, x[0]))
            held.callback(hook.remove)
        run()
    if missing := [name for name, rows in seen.items() if not rows]:
        raise ValueError(f"the network never called {missing[0]}, so its inputs have no range")
    t = torch.cat(seen[next(iter(layers))], dim=1)[0]
    edges = torch.quantile(t, torch.arange(1, bins, dtype=torch.float64) / bins)
    if (torch.bucketize(t, edges).bincount(minlength=bins) == 0).any():
        raise ValueError(
            f"--quant_act_bins {bins}: {len(t)} images calibrate less bins of timesteps; give "
            "fewer bins, or more images (--quant_calibration)"
        )
    return Ranges(edges, {name: _ends(torch.cat(rows, 1), edges) for name, rows in seen.items()})


def _ends(rows: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """(least, largest) [bins] of rows (t, least, largest) [3, N]."""
    bins = torch.bucketize(rows[0], edges)
    both = ((rows[1], torch.inf, "amin"), (rows[2], -torch.inf, "amax"))
    return tuple(
        torch.full((len(edges) + 1,), start, dtype=torch.float64).scatter_reduce(0, bins, x, how)
        for x, start, how in both
    )


@contextlib.contextmanager
def held(
    net: nn.Module, layers: Mapping[str, nn.Module], ranges: Ranges, bits: int
) -> Iterator[None]:
    """Quantize the layers' inputs inside, each image by its timestep's bin; what is beyond the
    range is clamped. ValueError where a gradient would have to pass."""
    with contextlib.ExitStack() as stack:
        now = stack.enter_context(told(net))
        for name, layer in layers.items():
            hook = _hook(ranges.edges, ranges.ends[name], bits, now, layer.weight.device)
            stack.callback(layer.register_forward_pre_hook(hook).remove)
        yield


def _hook(edges: Tensor, ends: tuple[Tensor, Tensor], bits: int, now: list[Tensor], device):
    quantizer = Quantizer(bits, granularity="channel")
    low, high = (end.float().to(device) for end in ends)
    of_bins, of_all = quantizer.grid(low, high), quantizer.grid(low.min(), high.max())
    edges = edges.to(device)

    def quantize(layer, inputs):
        x, t = without_gradient(inputs[0]), now[0]
        scale, zero = of_all  # where rows are no images, as of a table of positions
        if len(x) == len(t):
            bins = torch.bucketize(t.double(), edges)
            scale, zero = (part[bins].view(-1, *[1] * (x.ndim - 1)) for part in of_bins)
        codes = quantizer.codes(x.float(), scale, zero)
        return (codes.sub_(zero).mul_(scale).to(x.dtype),)

    return quantize
