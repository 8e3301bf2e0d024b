"""The norm in C++, with FiLM, SiLU and dropout: against its formula in fp64, and counted masks."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from images import CLOSE, assert_as_exact_as_pytorch, image, network, with_gradients

from flatdiff.kernels import build, noise, norm
from flatdiff.kernels.calls import switched_off
from flatdiff.nets import layers

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler"
)


def formula(x, weight, bias, film=None, silu=False):
    h = F.group_norm(x, 32, weight, bias)
    if film is not None:
        scale, shift = film[..., None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift
    return F.silu(h) if silu else h


@pytest.mark.parametrize("shape", [(2, 32, 8, 8), (3, 96, 5, 7), (1, 512, 2, 2), (2, 64, 40, 30)])
@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("silu", [False, True])
def test_the_norm_is_its_formula(shape, film, silu):
    x, channels = image(*shape, mean=2), shape[1]
    inputs = [x, torch.randn(channels), torch.randn(channels)]
    if film:
        inputs.append(torch.randn(shape[0], 2 * channels))

    def ours(x, weight, bias, film=None):
        return norm.normalize(x, 32, weight, bias, 1e-5, film, silu)

    assert_as_exact_as_pytorch(ours, lambda *a: formula(*a, silu=silu), inputs, shape)


def test_a_large_mean_costs_no_digits():
    x, ones = image(2, 64, 16, 16, mean=3000), torch.ones(64)
    got = norm.normalize(x, 32, ones, 0 * ones, 1e-5)
    expected = F.group_norm(x.double(), 32)
    # x is given to 1.2e-4; PyTorch, in this layout, is off by 1000
    assert (got - expected).abs().max() < 4e-4


def test_silu_far_from_zero():
    x = torch.linspace(-200, 200, 32 * 64).view(1, 64, 32, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.full((64,), 100.0), torch.zeros(64)
    got = norm.normalize(x, 32, weight, bias, 1e-5, silu=True)
    expected = formula(x.double(), weight.double(), bias.double(), silu=True)
    assert expected.min() < -1e-30 and (got - expected).abs().max() <= 3 * CLOSE * expected.max()


def test_what_is_not_finite_stays_so():
    x = image(2, 32, 4, 4)
    x[0, 3, 1, 1] = torch.nan
    for silu in (False, True):
        y = norm.normalize(x, 32, torch.ones(32), torch.zeros(32), 1e-5, silu=silu)
        assert y[0, 3].isnan().all() and y[1].isfinite().all()


# bf16


@pytest.mark.parametrize("shape", [(2, 32, 8, 8), (3, 96, 5, 7), (1, 512, 2, 2), (2, 64, 40, 30)])
@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("silu", [False, True])
def test_of_bf16_images_results_are_the_nearest_in_bf16(shape, film, silu):
    x, channels = image(*shape, mean=2).bfloat16(), shape[1]
    inputs = [x, torch.randn(channels), torch.randn(channels)]
    inputs += [torch.randn(shape[0], 2 * channels).bfloat16()] * film
    dy = image(*shape).bfloat16()
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = norm.normalize(*leaves[:1], 32, *leaves[1:3], 1e-5, leaves[3] if film else None, silu)
    got = [y, *torch.autograd.grad(y, leaves, dy)]
    exact = with_gradients(lambda *a: formula(*a, silu=silu), inputs, dy.double())
    for ours, expected, given in zip(got, exact, [x, *inputs], strict=True):
        assert ours.dtype == given.dtype
        half = 2**-8 if ours.dtype == torch.bfloat16 else 0  # of a number, between neighbours
        bound = half * expected.abs() + CLOSE * expected.abs().max()
        assert ((ours - expected).abs() <= bound).all()


def test_in_bf16_a_networks_step_is_no_further_from_fp32_than_pytorchs():
    model, x, t = network(), image(4, 3, 16, 16), torch.tensor([3, 700, 20, 999])
    weights = list(model.parameters())

    def step(dtype):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            y = model(x, t)
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(y.square().sum(), weights)])
        return y.detach(), flat

    exact, ours = step("fp32"), step("bf16")
    with switched_off():
        pytorch = step("bf16")
    for a, b, c in zip(exact, ours, pytorch, strict=True):
        assert 0 < (b - a).norm() <= 1.5 * (c - a).norm()


def test_rounding_to_bf16_is_pytorchs():
    x = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, -3.4e38, 1e-40, torch.nan, torch.inf])
    x = torch.cat([x, torch.randn(32 * 16 - len(x))]).view(1, 32, 16, 1)
    # a norm of no variance but a bias: y = bias, exactly, in every place
    flat = torch.zeros(1, 1, 32, 1).bfloat16().expand(1, 32, 32, 1)
    flat = flat.contiguous(memory_format=torch.channels_last)
    for bias in x.view(16, 32):
        got = norm.normalize(flat, 32, torch.ones(32), bias.contiguous(), 1e-5)
        expected = bias.bfloat16().view(1, 32, 1, 1).expand_as(got)
        assert torch.equal(got.nan_to_num(7), expected.nan_to_num(7))
        assert torch.equal(got.isnan(), expected.isnan())


# Dropout


def masked(x, p, silu=True, film=None):
    ones = torch.ones(x.shape[1])
    return norm.normalize(x, 32, ones, 0 * ones, 1e-5, film, silu, p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.997])
def test_kept_are_those_that_philox_says(p):
    count = 1000
    torch.manual_seed(3)
    bits = norm.keep_bits(count, p)
    torch.manual_seed(3)
    key = int(torch.empty((), dtype=torch.int64).random_())
    counters = torch.arange(4 * len(bits))
    nothing = torch.zeros_like(counters)
    halves = key & 0xFFFFFFFF, key >> 32
    words = torch.stack(noise.philox([counters, nothing, nothing, nothing], halves))
    expected = words.view(4, -1, 4).transpose(0, 1).flatten()[:count] >= p * 2**32
    bit = bits.int()[:, None] >> torch.arange(16) & 1
    assert torch.equal(bit.flatten()[:count].bool(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 32, 8, 8), (3, 96, 5, 7), (1, 512, 3, 1)])
def test_what_is_dropped_is_zero_and_the_rest_is_scaled(shape, dtype):
    x, p = image(*shape, mean=1).to(dtype).requires_grad_(), 0.3
    film = torch.randn(shape[0], 2 * shape[1]).to(dtype)
    y = masked(x, p, film=film)
    plain = masked(x, 0.0, film=film).detach()
    mask = torch.where(y.detach() == 0, 0.0, 1 / (1 - p))
    near = 2**-7 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(y, (plain * mask).to(dtype), rtol=near, atol=near)
    dy = image(*shape).to(dtype)
    through = torch.autograd.grad(masked(x, 0.0, film=film), x, (dy * mask).to(dtype))[0]
    dx = torch.autograd.grad(y, x, dy)[0]
    torch.testing.assert_close(dx, through, rtol=4 * near, atol=4 * near)


def test_as_many_are_dropped_as_asked_and_each_call_drops_others():
    x, p = image(4, 64, 64, 64), 0.3
    one, other = (masked(x, p) == 0 for _ in range(2))
    count = one.numel()
    deviation = (p * (1 - p) / count) ** 0.5
    assert abs(one.double().mean() - p) < 4 * deviation
    both = p * p
    assert abs((one & other).double().mean() - both) < 4 * (both * (1 - both) / count) ** 0.5
    # neighbours, in channels and in pixels, are dropped independently
    for shift in ((0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 0), (0, 16, 0, 0)):
        pairs = one & one.roll(shift, (0, 1, 2, 3))
        assert abs(pairs.double().mean() - both) < 4 * (both * (1 - both) / count) ** 0.5


def test_masks_are_the_generators_whatever_the_type_and_the_threads():
    x, threads = image(3, 96, 9, 7), torch.get_num_threads()
    found = []
    for count, dtype in ((1, torch.float32), (2, torch.bfloat16), (5, torch.float32)):
        torch.set_num_threads(count)
        torch.manual_seed(5)
        found.append(masked(x.to(dtype), 0.4) == 0)
    torch.set_num_threads(threads)
    assert all(torch.equal(mask, found[0]) for mask in found)


def test_a_recomputed_block_drops_the_same():
    block = layers.Layers(layers.normalization(64), layers.SiLU(), torch.nn.Dropout(0.5))
    x, dy = image(2, 64, 8, 8).requires_grad_(), image(2, 64, 8, 8)
    gradients = []
    for flag in (False, True):
        torch.manual_seed(1)
        y = layers.checkpoint(block, (x,), block.parameters(), flag)
        gradients.append(torch.autograd.grad(y, x, dy)[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_all_or_nothing_is_dropped(p):
    block = layers.Layers(layers.normalization(64), layers.SiLU(), torch.nn.Dropout(p))
    y = block(image(2, 64, 8, 8))
    assert y.count_nonzero() == (1 - p) * y.numel()
    assert block.eval()(image(2, 64, 8, 8)).all()
