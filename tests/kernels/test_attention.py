"""Attention in bf16 whose backward pass is in fp32: against the formula in fp64, and PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatdiff.kernels import attention, calls

SHAPES = [(2, 4, 64, 16), (3, 2, 16, 64), (1, 5, 100, 24), (2, 1, 1, 32)]


def heads(*shape):
    n, head, length, channels = shape
    return torch.randn(n, length, head, channels).transpose(1, 2)  # as a network has them


def gradients(function, inputs, dy):
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_no_further_from_fp64_than_pytorchs(shape):
    inputs, dy = [heads(*shape).bfloat16() for _ in range(3)], heads(*shape).bfloat16()

    def formula(q, k, v):
        return (q @ k.mT / shape[-1] ** 0.5).softmax(-1) @ v

    exact = gradients(formula, [x.double() for x in inputs], dy.double())
    ours = gradients(attention.attend, inputs, dy)
    pytorch = gradients(F.scaled_dot_product_attention, inputs, dy)
    assert torch.equal(ours[0], pytorch[0])
    for a, b, c in zip(exact, ours, pytorch, strict=True):
        assert b.dtype == torch.bfloat16
        assert (b - a).norm() <= 1.05 * (c - a).norm() + 2**-9 * a.norm()


def test_what_is_taken():
    short, long = (heads(2, 4, length, 32).bfloat16().requires_grad_() for length in (64, 1024))
    assert attention.takes(short) and not attention.takes(long)
    assert not attention.takes(short.float()) and not attention.takes(short.half())
    with torch.no_grad():
        assert not attention.takes(short)
    with sdpa_kernel(SDPBackend.MATH):
        assert not attention.takes(short)
    with calls.twice_differentiable():
        assert not attention.takes(short)


def test_a_second_derivative_is_an_error():
    q = heads(1, 2, 8, 16).bfloat16().requires_grad_()
    y = attention.attend(q, q, q)
    with pytest.raises(RuntimeError, match="first derivative only.*twice_differentiable"):
        torch.autograd.grad(y.sum(), q, create_graph=True)
