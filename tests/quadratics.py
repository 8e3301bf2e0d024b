"""Losses that are quadratic in the weights of linear layers, of which all is known."""

import torch
from torch import nn

from flatdiff.measure.subject import Axis, Subject, alike

COUNT = 12


class Parallel(nn.Module):
    """Layers each on inputs of its own, [N, layers, width] -> [N, layers], in float64."""

    def __init__(self, layers=2, width=5):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(layers))
        self.double().eval()

    def forward(self, x):
        return torch.cat([layer(x[:, i]) for i, layer in enumerate(self.layers)], dim=1)


def subject(seed=0, shared=False, layers=2, name="a", scale=1.0, images=0):
    """Losses ((sum of layers, or of their squares) - 1)^2 / 2: additive unless `shared`."""
    torch.manual_seed(seed)
    net = Parallel(layers)
    with torch.no_grad():
        for w in net.parameters():
            w.mul_(scale)
    torch.manual_seed(100 + images)
    x = torch.randn(COUNT, layers, 5, dtype=torch.float64)

    def loss(network, x):
        y = network(x)
        return (y.sum(dim=1) - 1).square() / 2 if shared else ((y - 1).square() / 2).sum(dim=1)

    made = Subject(name, net, loss, x, size=COUNT, axes={"": Axis(*alike(COUNT))})
    made.drawn = f"images {images}"
    return made
