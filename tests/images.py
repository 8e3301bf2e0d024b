"""Images and networks that layers are tried on, and how exact what they give must be."""

import torch

from flatdiff.nets.unet import UNetModel

CLOSE = 2e-6  # of the largest number; fp32 has 1.2e-7 between neighbours


def image(*shape, mean=0.0):
    return (torch.randn(shape) + mean).to(memory_format=torch.channels_last)


def with_gradients(function, inputs, dy):
    """The function's value, and its gradients for each of the inputs."""
    leaves = [t.detach().to(dy.dtype).requires_grad_() for t in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def assert_as_exact_as_pytorch(ours, pytorch, inputs, shape):
    """Results within CLOSE of the formula in fp64, and in channels_last where they are images."""
    dy = image(*shape)
    exact = with_gradients(pytorch, inputs, dy.double())
    for got, expected in zip(with_gradients(ours, inputs, dy), exact, strict=True):
        assert (got - expected).abs().max() <= CLOSE * expected.abs().max()
        assert (
            got.ndim < 4
            or got.shape[2] == 1
            or got.is_contiguous(memory_format=torch.channels_last)
        )


def network():
    model = UNetModel(16, 3, 32, 6, 1, [2], channel_mult=(1, 2), use_scale_shift_norm=True)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) / max(weight[0].numel(), 8) ** 0.5)
    return model.to(memory_format=torch.channels_last)


def assert_same_gradient(ours, pytorch):
    """As one vector: some biases have none, but for rounding, because a norm follows them."""
    a, b = (torch.cat([g.flatten() for g in gradients]) for gradients in (ours, pytorch))
    assert (a - b).norm() <= 5 * CLOSE * b.norm()
