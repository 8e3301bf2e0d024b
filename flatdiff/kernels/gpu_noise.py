"""The noise of noise.py on CUDA, by Triton: one launch a tensor, in place.

A thread makes the number of its own place in memory, so that layouts cost nothing; it throws three
of four away, which is cheaper than an order of memory that does not suit the GPU. Products are not
contracted with sums and roots are rounded right: the numbers are the CPU's.
"""

import ctypes

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
OPTIONS = {"enable_fp_fusion": False}
PLAIN = "low high stream channels pixels".split()  # no kernels of their own for 1, 16, 32, ...


@triton.jit(do_not_specialize=PLAIN)
def add_noise_kernel(
    w, scale, low, high, stream, count, channels, pixels, LAST: tl.constexpr, BLOCK: tl.constexpr
):
    """w[at] += scale z[e]; with LAST, at is a place of [slices, pixels, channels], and e is counted
    in the order [slices, channels, pixels]."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    e = at
    if LAST:
        row = at // channels
        channel, pixel = at - row * channels, row % pixels
        e = (row - pixel) * channels + channel * pixels + pixel
    a, b, c, d = _philox((e >> 2).to(tl.uint32), stream, low, high)
    early, even = (e & 2) == 0, (e & 1) == 0
    z = _normal(tl.where(early, a, c), tl.where(early, b, d), even)
    inside = at < count
    tl.store(w + at, tl.load(w + at, mask=inside) + scale * z, mask=inside)


@triton.jit
def _philox(a, stream, low, high):
    """Four words of the counter (a, stream, 0, 0)."""
    c = tl.zeros_like(a)
    d = tl.zeros_like(a)
    b = c + stream.to(tl.uint32)
    key0 = c + low.to(tl.uint32)
    key1 = c + high.to(tl.uint32)
    for _ in tl.static_range(10):
        upper0, lower0 = tl.umulhi(a, 0xD2511F53), a * 0xD2511F53
        upper1, lower1 = tl.umulhi(c, 0xCD9E8D57), c * 0xCD9E8D57
        a, b = upper1 ^ b ^ key0, lower1
        c, d = upper0 ^ d ^ key1, lower0
        key0 += 0x9E3779B9
        key1 += 0xBB67AE85
    return a, b, c, d


@triton.jit
def _normal(first, second, even):
    """The even or the odd one of two words' normals, with noise.py's polynomials."""
    x = (first & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    m = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    p = m * 1.526900145e-1 - 2.552316436e-1
    p = p * m + 2.632036652e-1
    p = p * m - 2.840351475e-1
    p = p * m + 3.324671440e-1
    p = p * m - 4.000245379e-1
    p = p * m + 5.000164208e-1
    p = p * m - 6.666666342e-1
    p = p * m + 1.0
    p = p * m - 2.0
    r = tl.sqrt_rn(p * m + (31 - exponent).to(tl.float32) * 1.386294361)
    r = tl.where((first >> 31) == 0, r, -r)
    t = (second << 1).to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10  # 2^-32
    q = t * t
    sin = q * -4.602176997e-3 + 7.968022808e-2
    sin = sin * q - 6.459634786e-1
    sin = (sin * q + 1.570796322) * t
    cos = q * 9.040216600e-4 - 2.086028850e-2
    cos = cos * q + 2.536692440e-1
    cos = cos * q - 1.233700543
    cos = cos * q + 1.0
    return r * tl.where(((second >> 31) == 0) == even, cos, sin)


def takes(w: Tensor) -> bool:
    """Whether `add_noise` takes w."""
    last = w.ndim == 4 and w.is_contiguous(memory_format=torch.channels_last)
    return w.is_cuda and w.dtype == torch.float32 and (last or w.is_contiguous())


@torch.library.custom_op("flatdiff::add_noise", mutates_args=("w",))
def _add_noise(w: Tensor, scale: float, low: int, high: int, stream: int) -> None:
    launch(w, scale, low, high, stream)


@_add_noise.register_fake
def _(w, scale, low, high, stream):
    return None


def add_noise(w: Tensor, scale: float, key: int, stream: int) -> Tensor:
    """See `noise.add_`."""
    _add_noise(w, scale, *(ctypes.c_int32(word).value for word in (key, key >> 32)), stream)
    return w


def launch(w: Tensor, scale: float, low: int, high: int, stream: int) -> None:
    """Run the kernel on w. low, high: the words of the key, signed so that all have one type."""
    last = not w.is_contiguous()
    sizes = (w.shape[1], w.shape[2:].numel()) if last else (1, 1)
    numbers = scale, low, high, stream, w.numel(), *sizes
    with torch.cuda.device_of(w):
        grid = (triton.cdiv(w.numel(), BLOCK),)
        add_noise_kernel[grid](w, *numbers, LAST=last, BLOCK=BLOCK, **OPTIONS)
