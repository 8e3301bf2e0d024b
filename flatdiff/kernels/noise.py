"""Standard normal noise that is a function of its place: the same on every device, to the bit.

    words = Philox4x32-10 of the counter (e // 4, stream, 0, 0) and the key    (Salmon et al. 2011)
    z[e]  = the first or second normal that words (0, 1) or (2, 3) make, e % 4 = 0, 1 or 2, 3

Element e is counted in the row-major order of the shape, whatever lies where in memory. Here in
torch's operators, the reference; noise_kernel.cpp and gpu_noise.py do the same operations at once.
"""

import functools

import torch
from torch import Tensor

from . import calls

MOST = 2**31  # elements of a tensor: counters, and places in memory, are 32-bit numbers
CHUNK = 2**16  # counters at a time, for bounded memory
MASK = 0xFFFFFFFF
MULTIPLIERS, STEPS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
# Minimax polynomials, the highest power first: m^3 p(m) = -2 ln(1 + m) + 2 m - m^2 to 6e-9 of the
# logarithm, t p(t^2) = sin(pi t / 2) to 3e-9, 1 + t^2 p(t^2) = cos(pi t / 2) to 5e-11
LOG = (1.526900145e-1, -2.552316436e-1, 2.632036652e-1, -2.840351475e-1, 3.324671440e-1)
LOG += (-4.000245379e-1, 5.000164208e-1, -6.666666342e-1, 1.0, -2.0)
SIN = -4.602176997e-3, 7.968022808e-2, -6.459634786e-1, 1.570796322
COS = 9.040216600e-4, -2.086028850e-2, 2.536692440e-1, -1.233700543, 1.0
SQRT_HALF = 0x3F3504F3  # the bits of the float


def add_(w: Tensor, scale: float, key: int, stream: int) -> Tensor:
    """w += scale z, in place, z standard normal: a function of key, stream and element alone.

    w: floats of any shape and layout, fewer than 2^31. In fp32, what is added is rounded to fp32
    before. key: 64 bits; stream: 32 bits, for tensors that share a key.
    """
    if not 0 <= w.numel() < MOST:
        raise ValueError(f"noise for {w.numel()} elements: expected fewer than 2^31 in a tensor")
    if calls.takes_noise(w):
        return calls.add_noise(w, scale, key, stream)
    if (gpu := _gpu()) and gpu.takes(w):
        return gpu.add_noise(w, scale, key, stream)
    flat = w if w.is_contiguous() else w.contiguous()
    for start in range(0, w.numel(), 4 * CHUNK):
        part = flat.view(-1)[start : start + 4 * CHUNK]
        counters = torch.arange(start // 4, start // 4 + -(-len(part) // 4), device=w.device)
        part.add_(normals(counters, key, stream)[: len(part)].mul_(scale))
    return w if flat is w else w.copy_(flat)


def agrees() -> bool:
    """Whether the library's noise is the one here, to the bit, on a small example."""
    w = torch.zeros(3, 5, 3, 3).to(memory_format=torch.channels_last)
    found = calls.add_noise(w, 0.5, 1 << 40 | 3, 7)
    flat = normals(torch.arange(-(-w.numel() // 4)), 1 << 40 | 3, 7)[: w.numel()]
    return torch.equal(found, flat.mul(0.5).view(w.shape))


@functools.cache
def _gpu():
    """The module for CUDA; None where there is no Triton."""
    try:
        from . import gpu_noise
    except ImportError:
        return None
    return gpu_noise


def normals(counters: Tensor, key: int, stream: int) -> Tensor:
    """z [4 N], fp32, of counters [N], int64."""
    nothing = torch.zeros_like(counters)
    words = philox([counters, nothing + stream, nothing, nothing], (key & MASK, key >> 32))
    return torch.stack([*_pair(*words[:2]), *_pair(*words[2:])], dim=1).view(-1)


def philox(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011, section 4.3): four words of a counter's four.

    A word is an int64 in [0, 2^32). A product's upper half comes out of int64, too: what overflows
    has the right bits.
    """
    (a, b, c, d), (low, high) = counter, key
    for _ in range(10):
        p, q = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b = (q >> 32 & MASK) ^ b ^ low, q & MASK
        c, d = (p >> 32 & MASK) ^ d ^ high, p & MASK
        low, high = low + STEPS[0] & MASK, high + STEPS[1] & MASK
    return [a, b, c, d]


def _pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two normals of two words (Box and Muller 1958).

    The first word is a sign and 31 bits of the radius. The second says whether the axes are
    swapped, and how far the angle is from one: t quarters of the circle, |t| <= 1/2.
    """
    r = _radius(first & 0x7FFFFFFF)
    r = torch.where(first >> 31 == 1, -r, r)
    angle = (second << 1 & MASK).int()
    t = angle.float() * 2.0**-32
    square = t * t
    sin, cos = _polynomial(SIN, square) * t, _polynomial(COS, square)
    swap = second >> 31 == 1
    return r * torch.where(swap, sin, cos), r * torch.where(swap, cos, sin)


def _radius(word: Tensor) -> Tensor:
    """sqrt(-2 ln u), u = (word + 1/2) / 2^31."""
    x = word.float() + 0.5
    bits = x.view(torch.int32)
    exponent = bits - SQRT_HALF >> 23  # x = 2^exponent (1 + m), m about 0
    m = (bits - (exponent << 23)).view(torch.float32) - 1
    square = _polynomial(LOG, m) * m + (31 - exponent).float() * 1.386294361
    return square.double().sqrt().float()  # rounded right, as torch's own of fp32 is not always


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
