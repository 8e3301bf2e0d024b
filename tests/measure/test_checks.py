"""What is no network, loss or draws to measure is refused in one sentence, before long work."""

import pytest
import torch
from torch import nn

import flatdiff

X = torch.arange(80.0).view(20, 4) / 80


def error(net, x):
    return (net(x) - x).square().mean(dim=1)


def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 4).eval()


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.eval()

    def forward(self, x):
        return self.b(self.a(x))


class View(nn.Module):
    """Its second weight is the last row of the first."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 4))
        self.v = nn.Parameter(self.w.data[1])
        self.eval()

    def forward(self, x):
        return x * self.w.mean(dim=0) * self.v


def refused(sentence, net=None, loss=error, draws=X, **how):
    """It is, in a line of this sentence, and the loss was called twice at most."""
    calls = []

    def counted(*given):
        calls.append(1)
        return loss(*given)

    with pytest.raises(ValueError, match=sentence) as found:
        flatdiff.subject(linear() if net is None else net, loss=counted, draws=draws, **how)
    assert "\n" not in str(found.value) and len(calls) <= 2


LOSSES = {
    "the loss is random: loss differs by": lambda net, x: error(net, x + torch.randn_like(x)),
    r"gave torch.float32 \(\) as loss; expected a vector \[N\]": lambda net, x: error(
        net, x
    ).mean(),
    r"gave torch.float32 \(20, 4\) as loss": lambda net, x: (net(x) - x).square(),
    r"gave torch.int64 \(20,\) as loss": lambda net, x: (net(x) > x).sum(dim=1),
    "gave a float as loss": lambda net, x: 1.0,
    "gave a list as a": lambda net, x: {"a": [1.0] * len(x)},
    "the loss gave no terms": lambda net, x: {},
    r"terms of several sizes, \{'a': 20, 'b': 19\}": lambda net, x: {
        "a": error(net, x),
        "b": error(net, x)[1:],
    },
    "loss is nan or infinite for 1 of 20 examples": lambda net, x: error(net, x) / (x[:, 0] > 0),
    "gave 7 values for draws of 20; expected a value for each": lambda net, x: error(net, x)[:7],
    "gave 1 values for draws of 20": lambda net, x: error(net, x).mean()[None],
    r"fails where it is first called \(draws of 20\): TypeError: .*positional": lambda net: 0,
}


@pytest.mark.parametrize("sentence", LOSSES)
def test_a_loss_that_is_none_is_refused(sentence):
    refused(sentence, loss=LOSSES[sentence])


def test_draws_of_another_size_are_refused():
    pair = lambda net, draws: error(net, draws[0]) + draws[1].mean(dim=1)  # noqa: E731
    refused(r"draws of 20, 7\): RuntimeError: The size of tensor", loss=pair, draws=(X, X[:7]))
    sentence = r"batch_size=5 cuts draws .* \[20, \.\.\.\]; got shapes \[\(20, 4\), \(1, 4\)\]"
    refused(sentence, loss=pair, draws=(X, X[:1]), batch_size=5)
    refused("expected two or more, for an error bar", draws=X[:1])


def test_draws_may_be_anything_that_the_loss_takes():
    """A list of batches, or a loader that does not shuffle, are what they are together."""
    whole = flatdiff.subject(linear(), loss=error, draws=X)
    joined = lambda net, parts: torch.cat([error(net, part) for part in parts])  # noqa: E731
    loader = torch.utils.data.DataLoader(X, batch_size=10)
    for draws in (list(X.split(10)), loader):
        found = flatdiff.subject(linear(), loss=joined, draws=draws)
        torch.testing.assert_close(found.own, whole.own, rtol=1e-6, atol=0)
    shuffled = torch.utils.data.DataLoader(X, batch_size=10, shuffle=True)
    refused("the loss is random", loss=joined, draws=shuffled)


def test_a_network_in_train_mode_is_refused():
    refused(r"in train mode \(the network itself\).*call net.eval\(\) first", linear().train())
    half = nn.Sequential(linear(), nn.Dropout()).eval()
    half[1].train()
    refused(r"in train mode \(1\)", half)


def test_weights_that_are_shared_are_refused_and_one_of_them_can_be_chosen():
    refused("a.weight and b.weight share their weights.*choose one of them by weights=", Tied())
    refused("w and v share their weights", View())
    one = flatdiff.subject(Tied(), loss=error, draws=X, weights=["a.*", "b.bias"])
    assert one.num_weights == 16 + 4 + 4


def test_a_network_without_weights_to_move_is_refused():
    refused("no weights of the network require grad", linear().requires_grad_(False))
    refused("weights='wieght' takes none of the 2 that require grad", weights="wieght")
    refused("weights= has a Parameter; expected patterns", weights=list(linear().parameters()))
    refused("expected a torch.nn.Module", net=42)


def test_frozen_weights_stay_and_chosen_ones_move():
    net = nn.Sequential(linear(), linear()).eval()
    net[0].requires_grad_(False)
    for weights, count in ((None, 20), ("1.bias", 4), (lambda name, w: w.ndim == 2, 16)):
        subject = flatdiff.subject(net, loss=error, draws=X, weights=weights)
        assert subject.num_weights == count


def test_half_precision_is_refused_or_copied():
    net = linear().bfloat16()
    refused("must be fp32, got torch.bfloat16.*fp32=True", net)
    copied = flatdiff.subject(net, loss=error, draws=X, fp32=True)
    assert next(net.parameters()).dtype == torch.bfloat16
    same = linear()
    same.load_state_dict(net.state_dict())
    assert torch.equal(copied.own, flatdiff.subject(same, loss=error, draws=X).own)
