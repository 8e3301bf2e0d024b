"""The small layers: against closed forms, golden numbers and their own properties."""

import pytest
import torch
import torch.nn.functional as F
from chains import GOLDEN
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn as torch_nn

from flatdiff.chain.losses import mean_flat
from flatdiff.kernels.calls import twice_differentiable
from flatdiff.nets import layers as nn


def test_timestep_embedding_is_guided_diffusions():
    embedding = nn.timestep_embedding(torch.tensor([0, 1, 999]), 8)
    torch.testing.assert_close(embedding, torch.tensor(GOLDEN["timestep_embedding_dim8"]))
    odd = nn.timestep_embedding(torch.tensor([5.5]), 7)[0]
    torch.testing.assert_close(odd, torch.tensor(GOLDEN["timestep_embedding_dim7_t5"]))


def test_timestep_embedding_takes_fractions_and_periods():
    embedding = nn.timestep_embedding(torch.tensor([0.5], dtype=torch.float64), 4, max_period=100)
    angles = torch.tensor([0.5, 0.05])  # frequencies 1 and 100 ** -1/2
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding[0], torch.cat([angles.cos(), angles.sin()]))


def test_timestep_embedding_may_reach_the_last_frequency_as_in_diffusers():
    t = torch.tensor([0.0, 0.25, 999.0])
    how = {"flip_sin_to_cos": True, "downscale_freq_shift": 1}
    theirs = get_timestep_embedding(t, 256, **how)
    assert torch.equal(nn.timestep_embedding(t, 256, shift=1), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_group_norm_is_computed_in_float32(dtype, monkeypatch):
    seen, group_norm = [], F.group_norm
    monkeypatch.setattr(F, "group_norm", lambda x, *a: seen.append(x.dtype) or group_norm(x, *a))
    x = (300 + 9 * torch.randn(2, 64, 5, 5)).to(dtype)  # float16 cannot hold 300 ** 2
    groups = x.double().view(2, 32, -1)
    deviation = groups.var(dim=2, correction=0, keepdim=True).add(1e-5).sqrt()
    expected = (groups - groups.mean(dim=2, keepdim=True)) / deviation
    y = nn.normalization(64)(x)
    assert seen == [torch.float32]
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected.view(x.shape), rtol=1e-2, atol=1e-4)


def test_width_that_group_norm_cannot_divide_names_the_flag():
    with pytest.raises(ValueError, match=r"48 channels.*multiple of 32.*num_channels"):
        nn.normalization(48)


def test_layers_by_number_of_dimensions():
    for dims in (1, 2, 3):
        x = torch.randn(1, 2, *[4] * dims)
        assert nn.conv_nd(dims, 2, 5, 3, padding=1)(x).shape == (1, 5, *[4] * dims)
        pooled = nn.avg_pool_nd(dims, kernel_size=2)(x)
        torch.testing.assert_close(pooled.mean(), x.mean())
    with pytest.raises(ValueError, match="dims is 4"):
        nn.conv_nd(4, 2, 5, 3)


def test_update_ema_keeps_the_rate_of_the_target():
    target, source = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 10.0])
    nn.update_ema([target], [source], rate=0.75)
    torch.testing.assert_close(target, torch.tensor([1.5, 4.0]))
    with pytest.raises(ValueError, match="argument 2"):
        nn.update_ema([target], [])


def test_zero_scale_and_mean():
    layer = torch_nn.Linear(3, 2)
    weight = layer.weight.detach().clone()
    torch.testing.assert_close(nn.scale_module(layer, 2.5).weight, 2.5 * weight)
    assert not any(p.any() or p.signbit().any() for p in nn.zero_module(layer).parameters())
    x = torch.arange(12.0).view(2, 3, 2)
    torch.testing.assert_close(mean_flat(x), torch.tensor([2.5, 8.5]))


def test_checkpoint_recomputes_with_the_same_dropout_mask():
    layer = torch_nn.Sequential(torch_nn.Linear(50, 50), torch_nn.Dropout(0.5))
    calls = []

    def forward(x):
        calls.append(x)
        return layer(x)

    def gradients(flag):
        torch.manual_seed(0)
        x = torch.ones(4, 50, requires_grad=True)
        y = nn.checkpoint(forward, (x,), layer.parameters(), flag)
        return torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))

    plain = gradients(flag=False)
    assert len(calls) == 1
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(flag=True)))
    assert len(calls) == 3


def test_attention_has_a_second_derivative_where_asked_for():
    torch.manual_seed(0)
    qkv = [torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    with twice_differentiable():
        assert torch.autograd.gradgradcheck(F.scaled_dot_product_attention, qkv)
