"""What compiled code does on a CPU, where `build` has installed it; else nobody takes anything.

    normalize           group norm, FiLM and SiLU in one pass over the image (norm_kernel.cpp)
    convolve            3x3 convolutions by Winograd's algorithm (conv_kernel.cpp)
    quantize, rescale   images to 8-bit codes, and back from their integer sums (int8_kernel.cpp)

All take fp32 alone. The first two have one derivative, in reverse mode. On CUDA, Triton
normalizes, half precision too (gpu_norm.py).
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import gpu_norm

_SIZE, _INT, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_int, ctypes.c_float, ctypes.c_void_p
_LAYER = [_SIZE] * 4 + [_POINTER] * 3 + [_INT] * 2
ARGUMENTS = {
    "norm_forward": [*_LAYER, _FLOAT] + [_POINTER] * 3,
    "norm_backward": _LAYER + [_POINTER] * 6,
    "conv3x3": [_SIZE] * 9 + [_INT] + [_POINTER] * 4,
    "quantize": [_SIZE] * 2 + [_INT] * 2 + [_POINTER] * 4,
    "rescale": [_SIZE] * 3 + [_INT] + [_POINTER] * 5,
}
WIDTH = 32  # channels at a time

_library = None
_off = False  # for a while, by `switched_off`


def install(library: ctypes.CDLL | None) -> None:
    """From now on these layers are computed by the library; None: by PyTorch.

    :raises OSError: the library does not compute what PyTorch does; then nothing is installed.
    """
    global _library
    _library = library
    if library is None:
        return
    for name, arguments in ARGUMENTS.items():
        getattr(library, name).argtypes = arguments
    if not _agrees():
        _library = None
        raise OSError("what was compiled does not compute what PyTorch does")


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """A context in which PyTorch computes all: for what is differentiated twice, or forward."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """A context for losses that are differentiated twice (Hessian products) or by forward mode.

    torch's fused attention kernels and our C++ kernels have a first derivative only; in here,
    all are computed by plain formulas, which have the rest.
    """
    with sdpa_kernel(SDPBackend.MATH), switched_off():
        yield


def _takes(x: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the library can compute with x, and with others of the dtype, at all."""
    return (
        _library is not None
        and x.is_cpu
        and x.dtype == dtype == torch.float32
        and x.numel() > 0
        and not _looked_into()
        and not torch.is_autocast_enabled("cpu")
    )


def _looked_into() -> bool:
    """Whether layers must be PyTorch's own: for torch.compile, torch.func, other derivatives."""
    return (
        _off
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def takes_norm(x: Tensor, weight: Tensor, film: Tensor | None) -> bool:
    """Whether `normalize` takes this image, norm and FiLM."""
    if x.is_cuda:
        taken = not _looked_into() and _is_image(x) and gpu_norm.takes(x, weight, film)
        return taken and gpu_norm.runs(_norm_agrees)
    return _takes(x, weight.dtype) and _is_image(x) and (film is None or film.dtype == x.dtype)


def takes_conv(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether `convolve` takes this layer and image.

    It pays where the transforms of the weight are small beside those of the image.
    """
    out, into, *size = layer.weight.shape
    return (
        size == [3, 3]
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and out % WIDTH == into % WIDTH == 0
        and into == x.shape[1]
        and out * into <= 2 * x.shape[2:].numel() ** 2
        and _takes(x, layer.weight.dtype)
        and _is_image(x)
    )


def takes_quantize(x: Tensor) -> bool:
    """Whether `quantize` takes x: every image's numbers lie together."""
    return _takes(x) and x.ndim > 1 and (x.is_contiguous() or _is_image(x))


def takes_rescale(y: Tensor) -> bool:
    """Whether `rescale` takes y."""
    return _takes(y) and _is_image(y)


def _is_image(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def normalize(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    film: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """silu(norm(x) * (1 + scale) + shift), in x's shape [N, C, H, W]; film: [N, 2 C], scale then
    shift, or None."""
    if x.is_cuda:
        return gpu_norm.normalize(x, groups, weight, bias, eps, film, silu)
    film = None if film is None else film.contiguous()
    inputs = x, weight.contiguous(), bias.contiguous(), film, groups, eps, silu
    return _Norm.apply(*inputs) if torch.is_grad_enabled() else _norm(*inputs)[0]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x: [N, I, H, W], weight: [O, I, 3, 3] -> [N, O, H, W], padded by 1 pixel of zeros."""
    inputs = x, weight, bias
    return _Conv.apply(*inputs) if torch.is_grad_enabled() else _conv3x3(*inputs)


def quantize(x: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """x [N, ...] -> codes, uint8 in its shape and layout; scale, fp32, zero, uint8, [N, 1, ...].

    The grids of quantize.Quantizer(bits, granularity="channel"), to the bit.
    """
    ones = [1] * (x.ndim - 1)
    codes = torch.empty_like(x, dtype=torch.uint8)
    scale, zero = x.new_empty(len(x), *ones), codes.new_empty(len(x), *ones)
    size = len(x), x.numel() // max(len(x), 1)
    _library.quantize(*size, bits, torch.get_num_threads(), *map(_address, (x, codes, scale, zero)))
    return codes, scale, zero


def rescale(y: Tensor, of_ones: Tensor, scale: Tensor, zero: Tensor, bias: Tensor) -> Tensor:
    """scale * (y - zero * of_ones) + bias, in place; y: [N, C, H, W], of_ones: [1, C, H, W]."""
    n, c, height, width = y.shape
    of_ones = of_ones.contiguous(memory_format=torch.channels_last)
    tensors = of_ones, scale, zero, bias, y
    _library.rescale(n, height * width, c, torch.get_num_threads(), *map(_address, tensors))
    return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, film, groups, eps, silu):
        y, moments = _norm(x, weight, bias, film, groups, eps, silu)
        ctx.save_for_backward(x, weight, bias, film, moments)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    def backward(ctx, dy):
        _differentiate_once()
        x, weight, bias, film, moments = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x)
        dfilm = None if film is None else torch.empty_like(film)
        of_images = x.new_empty(2, len(x), x.shape[1])  # of weight, of bias
        layer = _norm_layer(x, ctx.groups, weight, bias, film, ctx.silu)
        tensors = dy, x, moments, dx, of_images, dfilm
        _library.norm_backward(*layer, *map(_address, tensors))
        dweight, dbias = of_images.sum(1)
        return dx, dweight, dbias, dfilm, None, None, None


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.bias_shape = None if bias is None else bias.shape
        return _conv3x3(x, weight, bias)

    @staticmethod
    def backward(ctx, dy):
        _differentiate_once()
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias = ctx.needs_input_grad
        # the other way, weights are turned around and lead from out to in
        dx = _conv3x3(dy, weight.flip(2, 3).transpose(0, 1)) if of_x else None
        ones, asked = [1, 1], [False, of_weight, of_bias]
        rest = ones, ones, ones, False, [0, 0], 1, asked
        _, dweight, dbias = torch.ops.aten.convolution_backward(
            dy, x, weight, ctx.bias_shape, *rest
        )
        return dx, dweight, dbias


def _differentiate_once() -> None:
    """RuntimeError in a backward pass that is to be differentiated itself (create_graph)."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the C++ kernels have a first derivative only: compute what you differentiate "
            "twice in `with flatdiff.nn.twice_differentiable():`, or set FLATDIFF_KERNELS=0"
        )


def _norm(x, weight, bias, film, groups, eps, silu):
    """(y, its groups' means and reciprocal deviations [2, N, groups])."""
    y, moments = torch.empty_like(x), x.new_empty(2, len(x), groups)
    layer = _norm_layer(x, groups, weight, bias, film, silu)
    _library.norm_forward(*layer, eps, x.data_ptr(), y.data_ptr(), moments.data_ptr())
    return y, moments


def _norm_layer(x, groups, weight, bias, film, silu):
    """The arguments that both of the norm's functions begin with."""
    n, c, height, width = x.shape
    tensors = _address(weight), _address(bias), _address(film)
    return n, height * width, c, groups, *tensors, silu, torch.get_num_threads()


def _conv3x3(x, weight, bias=None):
    n, into, height, width = x.shape
    out = len(weight)
    shape, layout = (n, out, height, width), torch.channels_last
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    sizes = n, height, width, into, out, *weight.stride(), torch.get_num_threads()
    if not _library.conv3x3(*sizes, *map(_address, (x, weight, bias, y))):
        raise MemoryError(f"no memory for a convolution of {tuple(x.shape)} to {out} channels")
    return y


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _agrees() -> bool:
    """Whether small examples and their gradients come out as PyTorch's operators give them."""

    def conv(x, weight, bias):
        return F.conv2d(x, weight, bias, padding=1)

    return _norm_agrees() and _same(conv, convolve, (2, 64, 3, 5), (32, 64, 3, 3), 32)


def _norm_agrees(device: str = "cpu") -> bool:
    def norm(x, weight, bias, film):
        scale, shift = film[..., None, None].chunk(2, dim=1)
        return F.silu(F.group_norm(x, 32, weight, bias) * (1 + scale) + shift)

    def ours(x, weight, bias, film):
        return normalize(x, 32, weight, bias, 1e-5, film, silu=True)

    return _same(norm, ours, (2, 64, 3, 5), 64, 64, (2, 128), device=device)


@torch.enable_grad()
def _same(theirs: Callable, ours: Callable, *shapes, device: str = "cpu") -> bool:
    draw = torch.Generator().manual_seed(0)
    x, *rest = (torch.randn(shape, generator=draw).to(device) for shape in shapes)
    results = []
    for function in (theirs, ours):
        leaves = [t.requires_grad_() for t in (x.to(memory_format=torch.channels_last), *rest)]
        y = function(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    return all((a - b).norm() <= 1e-4 * a.norm() for a, b in zip(*results))
