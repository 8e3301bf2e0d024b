"""Attention on a CPU in bf16, whose backward pass is quicker in fp32 where it is short.

PyTorch's fused backward pass in bf16 takes 4 ms for 64 heads, however short they are, and fp32's
takes 1 ms for 64 positions of 64 channels (benchmarks/LOG.md). The forward pass is as it was.
"""

import torch
from torch import Tensor

from . import calls

SHORT = 8192  # positions times channels of a head, at most

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def takes(q: Tensor) -> bool:
    """Whether `attend` takes q [N, head, T, ch]: for its gradient, where PyTorch's is fused."""
    return (
        q.is_cpu
        and q.dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and q.shape[2:].numel() <= SHORT
        and q.numel() > 0
        and not calls.looked_into()
        and torch.backends.cuda.flash_sdp_enabled()
    )


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(ch)) v, bf16, all of them [N, head, T, ch]."""
    return _Attention.apply(q, k, v)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        y, logsumexp = _flash(q, k, v)
        ctx.save_for_backward(q, k, v, y, logsumexp)
        return y

    @staticmethod
    def backward(ctx, dy):
        calls.differentiate_once()
        *images, logsumexp = ctx.saved_tensors
        inputs = [x.float() for x in (dy, *images)]
        return tuple(g.bfloat16() for g in _flash_backward(*inputs, logsumexp, 0.0, False))
