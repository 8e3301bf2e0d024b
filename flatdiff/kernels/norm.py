"""Group norm, FiLM, SiLU and dropout in one pass over an image: by C++ on a CPU, Triton on CUDA.

Images are in channels_last and stay so; they are fp32 or half precision (on a CPU bf16), and the
arithmetic is fp32. There is one derivative, in reverse mode. Dropout is C++'s alone, and its masks
are counted (Philox), not drawn one by one; the same for fp32 and bf16, and for any threads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import calls, gpu_norm
from .calls import address

PIECE = 16  # numbers whose bits lie together


def takes(x: Tensor, weight: Tensor, film: Tensor | None) -> bool:
    """Whether `normalize` takes this image, norm and FiLM."""
    if x.is_cuda:
        taken = gpu_norm.takes(x, weight, film) and calls.is_image(x) and not calls.looked_into()
        return taken and gpu_norm.runs(agrees)
    return (
        calls.library() is not None
        and x.is_cpu
        and x.numel() > 0
        and x.dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == torch.float32
        and (film is None or film.dtype == x.dtype)
        and calls.is_image(x)
        and not calls.looked_into()
    )


def normalize(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    film: Tensor | None = None,
    silu: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """drop(silu(norm(x) * (1 + scale) + shift)), in x's shape [N, C, H, W] and dtype.

    film: [N, 2 C], scale then shift, or None. dropout: the probability of a zero; what is kept is
    divided by 1 - dropout. On a CPU it is part of the pass, and which numbers are kept is a
    function of a key from torch's generator.
    """
    weight, bias = weight.contiguous(), bias.contiguous()
    film = None if film is None else film.contiguous()
    if x.is_cuda:
        y = gpu_norm.normalize(x, weight, bias, film, groups=groups, eps=eps, silu=silu)
        return F.dropout(y, dropout) if dropout else y
    if dropout and (dropout >= 1 or x.shape[1] % PIECE):  # no bits for these
        return F.dropout(normalize(x, groups, weight, bias, eps, film, silu), dropout)
    film = None if film is None else film.float()
    kept = (keep_bits(x.numel(), dropout), 1 / (1 - dropout)) if dropout else (None, 1.0)
    inputs = x, weight, bias, film, *kept, groups, eps, silu
    return _Norm.apply(*inputs) if torch.is_grad_enabled() else _norm(*inputs)[0]


def keep_bits(count: int, dropout: float) -> Tensor:
    """int16 [ceil(count / 16)]: bit i of piece k is 1, with probability 1 - dropout, if number
    16 k + i is kept.

    It is if word i // 4 of Philox4x32-10 of the counter (4 k + i % 4, 0, 0, 0) is dropout * 2^32
    or more; the key comes from torch's default generator.
    """
    key = int(torch.empty((), dtype=torch.int64).random_())
    bits = torch.empty(-(-count // PIECE), dtype=torch.int16)
    threshold = round(dropout * 2**32)
    calls.library().keep_bits(len(bits), key, threshold, torch.get_num_threads(), bits.data_ptr())
    return bits


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, film, keep, gain, groups, eps, silu):
        y, moments = _norm(x, weight, bias, film, keep, gain, groups, eps, silu)
        ctx.save_for_backward(x, weight, bias, film, keep, moments)
        ctx.gain, ctx.groups, ctx.silu = gain, groups, silu
        return y

    @staticmethod
    def backward(ctx, dy):
        calls.differentiate_once()
        x, weight, bias, film, keep, moments = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x)
        dfilm = None if film is None else torch.empty_like(film)
        of_images = weight.new_empty(2, len(x), x.shape[1])  # of weight, of bias
        layer = _norm_layer(x, ctx.groups, weight, bias, film, ctx.silu, keep, ctx.gain)
        tensors = dy, x, moments, dx, of_images, dfilm
        calls.library().norm_backward(*layer, *map(address, tensors))
        dweight, dbias = of_images.sum(1)
        return dx, dweight, dbias, dfilm, *[None] * 5


def _norm(x, weight, bias, film, keep, gain, groups, eps, silu):
    """(y, its groups' means and reciprocal deviations [2, N, groups])."""
    y, moments = torch.empty_like(x), weight.new_empty(2, len(x), groups)
    layer = _norm_layer(x, groups, weight, bias, film, silu, keep, gain)
    calls.library().norm_forward(*layer, eps, x.data_ptr(), y.data_ptr(), moments.data_ptr())
    return y, moments


def _norm_layer(x, groups, weight, bias, film, silu, keep, gain):
    """The arguments that both of the norm's functions begin with."""
    n, c, height, width = x.shape
    sizes, half = (n, height * width, c, groups), x.dtype == torch.bfloat16
    tensors = address(weight), address(bias), address(film)
    return *sizes, *tensors, silu, half, address(keep), gain, torch.get_num_threads()


def agrees(device: str = "cpu") -> bool:
    """Whether a small norm and its gradients come out as PyTorch's operators give them."""

    def pytorch(x, weight, bias, film):
        scale, shift = film[..., None, None].chunk(2, dim=1)
        return F.silu(F.group_norm(x, 32, weight, bias) * (1 + scale) + shift)

    def ours(x, weight, bias, film):
        return normalize(x, 32, weight, bias, 1e-5, film, silu=True)

    def in_bf16(x, weight, bias, film):
        return ours(x.bfloat16(), weight, bias, film.bfloat16()).float()

    shapes = (2, 64, 3, 5), 64, 64, (2, 128)
    half = device != "cpu" or calls.same(pytorch, in_bf16, *shapes, near=1e-2)
    return calls.same(pytorch, ours, *shapes, device=device) and half
