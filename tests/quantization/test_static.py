"""Ranges by bins of timesteps, on a network whose activations grow with the timestep."""

import numpy as np
import pytest
import torch
from torch import nn

from flatdiff.quantization import static


class Growing(nn.Module):
    """Its layer's inputs are x (1 + t), a ramp of so many times 1 at timestep t."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16, bias=False)
        nn.init.eye_(self.layer.weight)
        self.table = nn.Linear(4, 4)

    def forward(self, x, timesteps):
        self.table(torch.ones(1, 4))
        return self.layer(x * (1 + timesteps.view(-1, 1)))


X = torch.linspace(-0.5, 1, 16)
T = torch.arange(80) % 40


@pytest.fixture
def net():
    return Growing().eval()


def calibrated(net, bins):
    layers = {"layer": net.layer, "table": net.table}
    ranges = static.calibrated(net, layers, lambda: net(X.expand(80, 16), T), bins)
    return layers, ranges


def test_each_bin_has_the_range_that_was_seen_in_it(net):
    _, ranges = calibrated(net, 4)
    assert ranges.edges.tolist() == np.quantile(T.numpy(), [0.25, 0.5, 0.75]).tolist()
    low, high = ranges.ends["layer"]
    torch.testing.assert_close(high, torch.tensor([10.0, 20, 30, 40]).double())
    torch.testing.assert_close(low, -high / 2)
    low, high = ranges.ends["table"]
    assert low.tolist() == high.tolist() == [1.0] * 4


def test_bins_follow_activations_that_depend_on_the_timestep(net):
    """At 4 bits a grid of the bin's own range is off by half a step of it at most; one grid for all
    timesteps by up to 40 times as much at t = 0."""
    off = {}
    for bins in (1, 4):
        layers, ranges = calibrated(net, bins)
        with torch.no_grad(), static.held(net, layers, ranges, 4):
            found = net(X.expand(40, 16), T[:40])
        exact = X * (1 + T[:40, None])
        off[bins] = (found - exact).abs().amax(1)
    steps = 1.5 * 10 * (1 + T[:40].div(10, rounding_mode="floor")) / 15
    assert (off[4] <= steps / 2 * 1.001).all()
    assert (off[1] <= 1.5 * 40 / 15 / 2 * 1.001).all()
    assert off[1][:10].mean() > 2 * off[4][:10].mean()
    torch.testing.assert_close(off[1][30:], off[4][30:])


def test_an_image_does_not_depend_on_its_batch_and_all_is_undone(net):
    layers, ranges = calibrated(net, 4)
    x, forward = torch.randn(40, 16), net.forward
    before = net(x, T[:40])
    with torch.no_grad(), static.held(net, layers, ranges, 4):
        together = net(x, T[:40])
        alone = torch.cat([net.forward(x[i : i + 1], T[i : i + 1]) for i in range(40)])
        assert torch.equal(together, alone) and not torch.allclose(together, before)
        beyond = net(1000 * X.expand(1, 16), T[:1])
        assert beyond.max() <= 10 * 1.05
    assert torch.equal(net(x, T[:40]), before) and net.forward == forward
    assert "forward" not in vars(net)


def test_gradients_and_too_many_bins_are_refused(net):
    layers, ranges = calibrated(net, 2)
    with static.held(net, layers, ranges, 8), pytest.raises(ValueError, match="no derivative"):
        net(X.expand(2, 16).clone().requires_grad_(), T[:2])
    with pytest.raises(ValueError, match="--quant_act_bins 100: 80 images calibrate less bins"):
        calibrated(net, 100)
    with pytest.raises(ValueError, match="never called layer"):
        static.calibrated(net, layers, lambda: None, 2)
