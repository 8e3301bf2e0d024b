"""Attention written out, in both orders of its rows."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatdiff.nets.blocks import AttentionBlock


def written_out_attention(block, x, row_of):
    """softmax(q k^T / sqrt(ch)) v, a head at a time; row_of(part, head, ch) is a row of qkv."""
    n, channels, height, width = x.shape
    heads, ch = block.num_heads, channels // block.num_heads
    tokens = F.group_norm(x, 32, block.norm.weight, block.norm.bias, 1e-5).flatten(2)
    qkv = torch.einsum("oc,nct->not", block.qkv.weight[..., 0], tokens)
    qkv = qkv + block.qkv.bias[:, None]
    outputs = []
    for head in range(heads):
        q, k, v = (qkv[:, [row_of(part, head, c) for c in range(ch)]] for part in range(3))
        scores = torch.einsum("nct,ncs->nts", q, k) / ch**0.5
        outputs.append(torch.einsum("nts,ncs->nct", scores.softmax(dim=2), v))
    h = torch.einsum("oc,nct->not", block.proj_out.weight[..., 0], torch.cat(outputs, dim=1))
    return x + (h + block.proj_out.bias[:, None]).view(n, channels, height, width)


def attention_block(new_order, heads=4):
    torch.manual_seed(0)
    block = AttentionBlock(32, num_heads=heads, use_new_attention_order=new_order)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_is_the_formula(new_order):
    block = attention_block(new_order)
    if new_order:  # [q|k|v][head][ch]
        row_of = lambda part, head, c: part * 32 + head * 8 + c  # noqa: E731
    else:  # [head][q|k|v][ch]
        row_of = lambda part, head, c: head * 24 + part * 8 + c  # noqa: E731
    x = torch.randn(2, 32, 3, 5)
    expected = written_out_attention(block, x, row_of)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_attention_orders_differ_by_a_permutation_of_rows():
    legacy, new = attention_block(False), attention_block(True)
    rows = torch.arange(96).view(4, 3, 8).transpose(0, 1).flatten()
    with torch.no_grad():
        new.qkv.weight.copy_(legacy.qkv.weight[rows])
        new.qkv.bias.copy_(legacy.qkv.bias[rows])
    x = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(new(x), legacy(x))


def test_attention_takes_any_number_of_dimensions():
    block = attention_block(True)
    x = torch.randn(2, 32, 2, 3, 4)
    flat = block(x.flatten(2))
    assert flat.shape == (2, 32, 24)
    torch.testing.assert_close(block(x).flatten(2), flat)
