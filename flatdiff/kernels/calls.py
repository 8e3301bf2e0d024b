"""What compiled code does on a CPU, where `build` has installed it; else nobody takes anything.

    convolve            3x3 convolutions by Winograd's algorithm (conv_kernel.cpp)
    quantize, rescale   images to 8-bit codes, and back from their integer sums (int8_kernel.cpp)
    add_noise           weight noise in place, a function of its place (noise_kernel.cpp)

All take fp32 alone. The first has one derivative, in reverse mode. Norms are in `norm`.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

_SIZE, _INT, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_int, ctypes.c_float, ctypes.c_void_p
_LAYER = [_SIZE] * 4 + [_POINTER] * 3 + [_INT] * 2 + [_POINTER, _FLOAT, _INT]
ARGUMENTS = {
    "norm_forward": [*_LAYER, _FLOAT] + [_POINTER] * 3,
    "norm_backward": _LAYER + [_POINTER] * 6,
    "keep_bits": [_SIZE, ctypes.c_uint64, ctypes.c_uint64, _INT, _POINTER],
    "conv3x3": [_SIZE] * 9 + [_INT] + [_POINTER] * 4,
    "quantize": [_SIZE] * 2 + [_INT] * 2 + [_POINTER] * 4,
    "rescale": [_SIZE] * 3 + [_INT] + [_POINTER] * 5,
    "add_noise": [_SIZE] * 3 + [ctypes.c_uint64, ctypes.c_uint32, _FLOAT, _INT, _POINTER],
}
WIDTH = 32  # channels at a time

_library = None
_off = False  # for a while, by `switched_off`


def hold(library: ctypes.CDLL | None) -> None:
    """From now on these layers are computed by the library; None: by PyTorch."""
    global _library
    _library = library
    for name, arguments in ARGUMENTS.items() if library else ():
        getattr(library, name).argtypes = arguments


def library() -> ctypes.CDLL | None:
    """What is held, or None."""
    return _library


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
        and not looked_into()
        and not torch.is_autocast_enabled("cpu")
    )


def looked_into() -> bool:
    """Whether layers must be PyTorch's own: for torch.compile, torch.func, other derivatives."""
    return (
        _off
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def takes_conv(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether `convolve` takes this layer and image.

    It pays where the transforms of the weight are small beside those of the image.
    """
    out, into = layer.weight.shape[:2]
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and out % WIDTH == into % WIDTH == 0
        and into == x.shape[1]
        and out * into <= 2 * x.shape[2:].numel() ** 2
        and _takes(x, layer.weight.dtype)
        and is_image(x)
    )


def takes_quantize(x: Tensor) -> bool:
    """Whether `quantize` takes x: every image's numbers lie together."""
    return _takes(x) and x.ndim > 1 and (x.is_contiguous() or is_image(x))


def takes_rescale(y: Tensor) -> bool:
    """Whether `rescale` takes y."""
    return _takes(y) and is_image(y)


def takes_noise(w: Tensor) -> bool:
    """Whether `add_noise` takes w: all numbers lie together."""
    return _takes(w) and (w.is_contiguous() or is_image(w))


def is_image(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


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
    _library.quantize(*size, bits, torch.get_num_threads(), *map(address, (x, codes, scale, zero)))
    return codes, scale, zero


def rescale(y: Tensor, of_ones: Tensor, scale: Tensor, zero: Tensor, bias: Tensor) -> Tensor:
    """scale * (y - zero * of_ones) + bias, in place; y: [N, C, H, W], of_ones: [1, C, H, W]."""
    n, c, height, width = y.shape
    of_ones = of_ones.contiguous(memory_format=torch.channels_last)
    tensors = of_ones, scale, zero, bias, y
    _library.rescale(n, height * width, c, torch.get_num_threads(), *map(address, tensors))
    return y


def add_noise(w: Tensor, scale: float, key: int, stream: int) -> Tensor:
    """w += scale z, in place: see `noise.add_`."""
    one_after_another = 1, w.numel(), 1
    sizes = one_after_another if w.is_contiguous() else (len(w), w.shape[1], w.shape[2:].numel())
    _library.add_noise(*sizes, key, stream, scale, torch.get_num_threads(), w.data_ptr())
    return w


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.bias_shape = None if bias is None else bias.shape
        return _conv3x3(x, weight, bias)

    @staticmethod
    def backward(ctx, dy):
        differentiate_once()
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


def differentiate_once() -> None:
    """RuntimeError in a backward pass that is to be differentiated itself (create_graph)."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "our kernels have a first derivative only: compute what you differentiate "
            "twice in `with flatdiff.nn.twice_differentiable():`, or set FLATDIFF_KERNELS=0"
        )


def _conv3x3(x, weight, bias=None):
    n, into, height, width = x.shape
    out = len(weight)
    shape, layout = (n, out, height, width), torch.channels_last
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    sizes = n, height, width, into, out, *weight.stride(), torch.get_num_threads()
    if not _library.conv3x3(*sizes, *map(address, (x, weight, bias, y))):
        raise MemoryError(f"no memory for a convolution of {tuple(x.shape)} to {out} channels")
    return y


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def conv_agrees() -> bool:
    """Whether a small convolution and its gradients come out as PyTorch gives them."""

    def conv(x, weight, bias):
        return F.conv2d(x, weight, bias, padding=1)

    return same(conv, convolve, (2, 64, 3, 5), (32, 64, 3, 3), 32)


@torch.enable_grad()
def same(
    theirs: Callable, ours: Callable, *shapes, device: str = "cpu", near: float = 1e-4
) -> bool:
    """Whether two functions of images and weights agree, and their gradients, on small examples."""
    draw = torch.Generator().manual_seed(0)
    x, *rest = (torch.randn(shape, generator=draw).to(device) for shape in shapes)
    results = []
    for function in (theirs, ours):
        leaves = [t.requires_grad_() for t in (x.to(memory_format=torch.channels_last), *rest)]
        y = function(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    return all((a - b).norm() <= near * a.norm() for a, b in zip(*results))
