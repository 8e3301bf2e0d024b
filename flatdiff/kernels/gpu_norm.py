"""The norms of `calls` on CUDA: operators flatdiff::norm, flatdiff::norm_backward (norm_kernel.py).

Two launches either way: sums over parts of every image, then the image from the sums. Nothing is
added in an order that could change: an image's numbers are the same in every run, and beside any
other images. Triton is imported when the first image comes; where there is none, or it does not
work, PyTorch's operators do the same, slower: they undo channels_last on CUDA.
"""

import functools
import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from . import calls

DTYPES = torch.float32, torch.bfloat16, torch.float16
PIXELS, CHANNELS = 256, 64  # of a program, about
TILE = 2048  # numbers that it has before it at a time
SUMS = 4096  # all parts' at most, of a program's channels: they are added in registers


def takes(x: Tensor, weight: Tensor, film: Tensor | None) -> bool:
    """Whether `normalize` takes these types, and gives the one that PyTorch would."""
    return (
        x.dtype in DTYPES
        and weight.dtype == torch.float32
        and (film is None or (film.dtype in DTYPES and x.dtype in (film.dtype, torch.float32)))
        and x.numel() > 0
    )


@functools.cache
def runs(agrees: Callable[[str], bool]) -> bool:
    """Whether Triton is there, not switched off, and `agrees` on "cuda"; says once what is not."""
    fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
    try:
        if os.environ.get("FLATDIFF_KERNELS") == "0":
            raise OSError("FLATDIFF_KERNELS=0")
        from . import norm_kernel as norm_kernel

        with torch.inference_mode(False):
            if not fake and not agrees("cuda"):
                raise OSError("what Triton compiled does not compute what PyTorch does")
    except Exception as error:  # Triton's are of many kinds
        warnings.warn(f"group norms are PyTorch's, which are slower ({error})", stacklevel=2)
        return False
    return True


def normalize(x, weight, bias, film=None, *, groups, eps, silu) -> Tensor:
    """silu(norm(x) * (1 + scale) + shift): see `norm.normalize`, which gives contiguous weights."""
    inputs = x, weight, bias, film, groups, eps, silu
    return _Norm.apply(*inputs) if torch.is_grad_enabled() else torch.ops.flatdiff.norm(*inputs)[0]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, film, groups, eps, silu):
        y, moments = torch.ops.flatdiff.norm(x, weight, bias, film, groups, eps, silu)
        ctx.save_for_backward(x, moments, weight, bias, film)
        ctx.silu = silu
        return y

    @staticmethod
    def backward(ctx, dy):
        calls.differentiate_once()
        dy = dy.contiguous(memory_format=torch.channels_last)
        found = torch.ops.flatdiff.norm_backward(dy, *ctx.saved_tensors, ctx.silu)
        dx, dweight, dbias, dfilm = [*found, None][:4]
        return dx, dweight, dbias, dfilm, None, None, None


def norm(x, weight, bias, film, groups, eps, silu):
    """(y, its groups' means and reciprocal deviations [2, N, groups])."""
    from .norm_kernel import moments_kernel, norm_kernel

    programs, pixels, sizes = _layout(x, groups)
    y, moments = _norm_shapes(x, weight, bias, film, groups, eps, silu)
    of_parts = moments.new_empty(len(x), 2, groups, sizes["PARTS"])
    of_layer = weight, bias, film, film is not None, silu
    with torch.cuda.device_of(x):
        moments_kernel[programs](x, of_parts, pixels, **sizes)
        norm_kernel[programs](x, y, of_parts, moments, len(x), pixels, eps, *of_layer, **sizes)
    return y, moments


def norm_backward(dy, x, moments, weight, bias, film, silu):
    """[dx, dweight, dbias], and dfilm if there is a film."""
    from .norm_kernel import gradient_kernel, sums_kernel

    programs, pixels, sizes = _layout(x, moments.shape[2])
    dx, _, _, *dfilm = _gradient_shapes(dy, x, moments, weight, bias, film, silu)
    n, channels = x.shape[:2]
    of_parts = moments.new_empty(n, 2, sizes["PARTS"], channels)
    of_images = moments.new_empty(2, n, channels)  # of weight, of bias
    of_layer = weight, bias, film, film is not None, silu
    images = dy, x, moments, n, pixels
    with torch.cuda.device_of(x):
        sums_kernel[programs](of_parts, *images, *of_layer, **sizes)
        gradient_kernel[programs](
            dx, of_images, dfilm[0] if dfilm else None, of_parts, *images, *of_layer, **sizes
        )
    return [dx, *of_images.sum(1).unbind(), *dfilm]


def _norm_shapes(x, weight, bias, film, groups, eps, silu):
    return torch.empty_like(x), weight.new_empty(2, len(x), groups)


def _gradient_shapes(dy, x, moments, weight, bias, film, silu):
    return [torch.empty_like(t) for t in (x, weight, bias, film) if t is not None]


def _layout(x, groups):
    """(grid, pixels of an image, the kernels' constants); a part does not depend on how many
    images there are."""
    n, channels, height, width = x.shape
    pixels, channels = height * width, channels // groups
    padded = _power_of_2(channels)
    at_once = max(1, min(CHANNELS // padded, _power_of_2(groups)))
    rows = max(1, min(TILE // (at_once * padded), _power_of_2(pixels)))
    parts = max(1, min(_power_of_2(pixels) // PIXELS, SUMS // (at_once * padded)))  # none is empty
    sizes = dict(GROUPS=groups, WIDTH=channels, PARTS=parts, AT_ONCE=at_once, PADDED=padded)
    return (n * -(-groups // at_once) * parts,), pixels, dict(sizes, ROWS=rows)


def _power_of_2(number: int) -> int:
    """The first that is not smaller."""
    return 1 << (number - 1).bit_length()


def _register(name: str, schema: str, function: Callable, shapes: Callable) -> None:
    """An operator that torch's tools see as one: they count it, and know its shapes by `shapes`."""
    torch.library.define(f"flatdiff::{name}", schema)
    torch.library.impl(f"flatdiff::{name}", "CompositeExplicitAutograd", function)
    torch.library.register_fake(f"flatdiff::{name}", shapes)


LAYER = "Tensor weight, Tensor bias, Tensor? film"
FORWARD = f"(Tensor x, {LAYER}, int groups, float eps, bool silu) -> (Tensor, Tensor)"
BACKWARD = f"(Tensor dy, Tensor x, Tensor moments, {LAYER}, bool silu) -> Tensor[]"
_register("norm", FORWARD, norm, _norm_shapes)
_register("norm_backward", BACKWARD, norm_backward, _gradient_shapes)
