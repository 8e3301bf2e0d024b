"""The C++ kernels but the norm: against formulas in fp64, PyTorch's kernels, and themselves."""

import functools
import shutil

import pytest
import torch
import torch.nn.functional as F
from images import (
    CLOSE,
    assert_as_exact_as_pytorch,
    assert_same_gradient,
    image,
    network,
    with_gradients,
)
from torch.autograd import forward_ad

from flatdiff.kernels import build, calls, norm
from flatdiff.kernels.calls import twice_differentiable
from flatdiff.nets import layers as nn
from flatdiff.quantization.grid import Quantizer

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler"
)


# Convolution


def test_what_is_not_finite_stays_so():
    x = image(2, 32, 4, 4)
    x[0, 3, 1, 1] = torch.nan
    assert calls.convolve(x, torch.randn(32, 32, 3, 3))[0, :, 0:3, 0:3].isnan().all()


@pytest.mark.parametrize(
    ("shape", "out"),
    [((2, 32, 8, 8), 64), ((1, 96, 7, 5), 32), ((3, 64, 1, 9), 64), ((1, 160, 30, 41), 96)],
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_convolution_is_one(shape, out, bias, layout):
    weight = torch.randn(out, shape[1], 3, 3).to(memory_format=layout)
    inputs = [image(*shape), weight] + [torch.randn(out)] * bias

    def convolution(x, weight, bias=None):
        return F.conv2d(x, weight, bias, padding=1)

    shape = shape[0], out, *shape[2:]
    assert_as_exact_as_pytorch(calls.convolve, convolution, inputs, shape)


def test_which_convolutions_are_taken():
    x = image(2, 64, 16, 16)

    def taken(x, channels=64, out=64, size=3, **options):
        return calls.takes_conv(nn.Conv2d(channels, out, size, **options), x)

    assert taken(x, padding=1) and taken(x, out=32, padding=1, bias=False)
    assert not taken(x) and not taken(x, padding=1, stride=2) and not taken(x, size=1)
    assert not taken(x, padding=1, dilation=2) and not taken(x, padding=1, groups=2)
    assert not taken(x, padding=1, padding_mode="circular") and not taken(x, padding="same")
    assert not taken(x, out=6, padding=1) and not taken(image(2, 3, 16, 16), 3, padding=1)
    assert not taken(image(2, 64, 4, 4), padding=1)  # the weight is larger than the image
    assert not taken(x.contiguous(), padding=1) and not taken(x.double(), padding=1)


def test_an_image_of_other_channels_is_refused_as_by_pytorch():
    with pytest.raises(RuntimeError, match="expected input"):
        nn.Conv2d(32, 32, 3, padding=1)(image(1, 64, 16, 16))


# Quantized images


@pytest.mark.parametrize("bits", [2, 7, 8])
@pytest.mark.parametrize(
    "make",
    [
        lambda: image(3, 64, 7, 9, mean=1),
        lambda: torch.randn(2, 50, 33),
        lambda: -torch.rand(4, 70),
        lambda: torch.zeros(2, 5),
        lambda: torch.randn(3, 99) * 1e37,
        lambda: torch.randn(3, 99) * 1e-42,
    ],
)
def test_codes_are_the_quantizers_to_the_bit(bits, make):
    x = make()
    assert calls.takes_quantize(x)
    ours = Quantizer(bits, "channel")(x)
    with calls.switched_off():
        pytorch = Quantizer(bits, "channel")(x)
    assert torch.equal(ours.codes, pytorch.codes) and ours.codes.stride() == pytorch.codes.stride()
    assert torch.equal(ours.scale, pytorch.scale) and torch.equal(ours.zero, pytorch.zero)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_codes_of_what_is_not_finite_stand_for_nan(value):
    x = torch.randn(2, 100)
    x[0, 70] = value
    values = Quantizer(8, "channel")(x).dequantize()
    assert values[0].isnan().all() and values[1].isfinite().all()


def test_rescaled_sums():
    y, ones, bias = image(3, 40, 5, 4), image(1, 40, 5, 4), torch.randn(40)
    scale, zero = torch.rand(3, 1, 1, 1), torch.tensor([0, 7, 255], dtype=torch.uint8)
    zero = zero.view(3, 1, 1, 1)
    expected = (y - zero * ones) * scale + bias.view(-1, 1, 1)
    torch.testing.assert_close(calls.rescale(y, ones, scale, zero, bias), expected)


# All of them


def test_threads_change_nothing():
    x, dy = image(2, 128, 20, 12), image(2, 128, 20, 12)
    weight, film = torch.randn(128, 128, 3, 3), torch.randn(2, 256)
    scale, shift = torch.randn(2, 128)

    def results(threads):
        torch.set_num_threads(threads)
        normed = with_gradients(
            lambda x, *a: norm.normalize(x, 32, *a[:2], 1e-5, a[2], True),
            [x, scale, shift, film],
            dy,
        )
        codes, *grid = calls.quantize(x, 8)
        # the gradient of a convolution's weight is PyTorch's
        return [*normed, *with_gradients(calls.convolve, [x, weight], dy)[:2], codes, *grid]

    one = results(1)
    for threads in (2, 3, 7):
        assert all(torch.equal(a, b) for a, b in zip(one, results(threads), strict=True))


def test_a_network_is_the_one_that_pytorch_computes(monkeypatch):
    model, x, t = network(), image(2, 3, 16, 16), torch.tensor([3, 700])
    weights = list(model.parameters())
    taken = []
    for room, name in ((norm, "normalize"), (calls, "convolve")):
        function = getattr(room, name)
        spy = functools.partial(lambda name, f, *a: taken.append(name) or f(*a), name, function)
        monkeypatch.setattr(room, name, spy)

    def result():
        y = model(x, t)
        return [y, *torch.autograd.grad(y.square().sum(), weights)]

    ours = result()
    assert taken.count("normalize") == sum(isinstance(m, nn.GroupNorm32) for m in model.modules())
    assert taken.count("convolve") >= 10
    taken.clear()
    with calls.switched_off():
        pytorch = result()
    assert not taken
    assert (ours[0] - pytorch[0]).norm() <= CLOSE * pytorch[0].norm()
    assert_same_gradient(ours[1:], pytorch[1:])


def test_what_looks_inside_gets_pytorchs_layers():
    model, x, t = network(), image(1, 3, 16, 16), torch.tensor([3])
    weights = dict(model.named_parameters())

    def loss(weights):
        return torch.func.functional_call(model, weights, (x, t)).square().mean()

    expected = torch.autograd.grad(loss(weights), list(weights.values()))
    assert_same_gradient(torch.func.grad(loss)(weights).values(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.middle_block[0].in_layers[2](image(1, 64, 16, 16)).dtype == torch.bfloat16


@pytest.mark.parametrize("grad", [False, True])
def test_forward_mode_gets_pytorchs_kernels(grad):
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    x, direction = image(1, 64, 8, 8), image(1, 64, 8, 8)
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        slope = forward_ad.unpack_dual(conv(forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(slope, conv(direction), rtol=1e-4, atol=1e-5)  # it is linear


def test_gradients_of_the_image_alone():
    x = image(1, 64, 8, 8).requires_grad_()
    layers = torch.nn.Sequential(nn.normalization(64), nn.Conv2d(64, 64, 3, padding=1))
    dy = image(1, 64, 8, 8)
    expected = torch.autograd.grad(layers(x), x, dy)[0]
    layers.requires_grad_(False)
    assert torch.equal(torch.autograd.grad(layers(x), x, dy)[0], expected)


def test_the_default_dtype_changes_nothing():
    x, weight = image(1, 64, 8, 8), torch.randn(64, 64, 3, 3)
    expected = calls.convolve(x, weight)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(calls.convolve(x, weight), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_no_images_give_no_images():
    x = image(0, 64, 8, 8).requires_grad_()
    y = nn.Conv2d(64, 32, 3, padding=1)(nn.normalization(64)(x, silu=True))
    assert y.shape == (0, 32, 8, 8)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert Quantizer(8, "channel")(image(0, 3, 4, 4)).codes.shape == (0, 3, 4, 4)


def test_a_second_derivative_is_an_error_or_pytorchs():
    x = image(1, 64, 8, 8).requires_grad_()
    first_layer, conv = nn.normalization(64), nn.Conv2d(64, 64, 3, padding=1)

    def second_derivative():
        (first,) = torch.autograd.grad(conv(first_layer(x, silu=True)).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    with pytest.raises(RuntimeError, match="first derivative only.*twice_differentiable"):
        second_derivative()
    with twice_differentiable():
        assert second_derivative().any()


@pytest.mark.parametrize(
    ("name", "right", "other"),
    [
        ("norm", "1.0 + film", "1.01 + film"),
        ("norm", "to.bits = x == x", "to.bits = x == x ? bits >> 17 : x == x"),
        ("noise", "1.386294361f", "1.386294f"),
    ],
)
def test_a_library_that_computes_something_else_is_refused(tmp_path, name, right, other):
    sources = {path.stem: path for path in build.SOURCES}
    source, wrong = sources[f"{name}_kernel"].read_text(), tmp_path / f"{name}_kernel.cpp"
    assert source.count(right) == 1
    wrong.write_text(source.replace(right, other))
    library = build.load([*(sources | {wrong.stem: wrong}).values()])
    with pytest.raises(OSError, match="does not compute what PyTorch"):
        build.install(library)
    assert not norm.takes(image(1, 32, 4, 4), torch.ones(32), None)
    build.install(build.load(build.SOURCES))
    assert norm.takes(image(1, 32, 4, 4), torch.ones(32), None)
