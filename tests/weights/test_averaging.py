"""EMA and SWA against closed forms and torch.optim.swa_utils."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flatdiff.weights.averaging import EMA, SWA, Power, caution


def walk(steps=20):
    """Weights along a random walk, as float32 lists."""
    g = torch.Generator().manual_seed(0)
    return [[torch.randn(4, 3, generator=g), torch.randn(5, generator=g)] for _ in range(steps)]


def test_ema_is_a_geometric_series():
    """ema_n = rate^n start + (1 - rate) sum_k rate^(n-k) w_k."""
    start, *path = walk()
    ema, rate, n = EMA(start, 0.9), 0.9, len(path)
    for weights in path:
        ema.update(weights)
    for i, average in enumerate(ema.weights):
        terms = [(1 - rate) * rate ** (n - 1 - k) * w[i].double() for k, w in enumerate(path)]
        expected = rate**n * start[i].double() + sum(terms)
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)


def test_swa_is_the_mean_of_what_it_was_shown():
    start, *path = walk()
    swa = SWA(start)
    for weights in path:
        swa.update(weights)
    for i, average in enumerate(swa.weights):
        expected = torch.stack([w[i].double() for w in path]).mean(0)
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)
    assert swa.count == len(path)


def test_first_update_of_swa_replaces_the_start():
    start, first = walk(2)
    swa = SWA(start)
    swa.update(first)
    assert all(torch.equal(a, b) for a, b in zip(swa.weights, first))


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_same_as_torch_swa_utils(kind):
    model = torch.nn.Linear(3, 4)
    if kind == "ema":
        ours = EMA(list(model.parameters()), 0.99)
        theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    else:
        ours, theirs = SWA(list(model.parameters())), AveragedModel(model)
    if kind == "ema":
        theirs.update_parameters(model)  # torch's first update only copies
    g = torch.Generator().manual_seed(0)
    for _ in range(10):
        for w in model.parameters():
            w.data.add_(torch.randn(w.shape, generator=g))
        ours.update(list(model.parameters()))
        theirs.update_parameters(model)
    for a, b in zip(ours.weights, theirs.module.parameters()):
        torch.testing.assert_close(a, b.data, rtol=1e-5, atol=1e-6)


def test_rate_0_follows_the_weights():
    start, *path = walk(5)
    ema = EMA(start, 0.0)
    for weights in path:
        ema.update(weights)
    assert all(torch.equal(a, b) for a, b in zip(ema.weights, path[-1]))


def test_weights_are_fp32_copies_in_the_same_layout():
    w = torch.nn.Parameter(torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last))
    average = EMA([w, torch.ones(3, dtype=torch.bfloat16)], 0.5)
    w.data.zero_()
    assert average.weights[0].abs().sum() > 0
    assert average.weights[0].stride() == w.stride()
    assert [a.dtype for a in average.weights] == [torch.float32] * 2
    assert not any(a.requires_grad for a in average.weights)


@pytest.mark.parametrize("make", [lambda w: EMA(w, 0.9), SWA, Power])
def test_saved_and_loaded_it_goes_on_bitwise(make):
    start, *path = walk()
    whole, first = make(start), make(start)
    for weights in path[:7]:
        first.update(weights)
    second = make([torch.zeros_like(w) for w in start])
    second.load_state_dict(first.state_dict())
    for weights in path[7:]:
        second.update(weights)
    for weights in path:
        whole.update(weights)
    assert all(torch.equal(a, b) for a, b in zip(whole.weights, second.weights))
    assert second.count == len(path)


def test_another_networks_state_is_refused():
    with pytest.raises(ValueError, match="another network"):
        EMA([torch.zeros(3, 1)], 0.9).load_state_dict(EMA([torch.zeros(3)], 0.9).state_dict())


def test_an_ema_that_still_holds_its_start_is_told():
    """Its first weights are ones, all later ones zeros: what is left is their share."""
    ema = EMA([torch.ones(1, dtype=torch.float64)], 0.999)
    for _ in range(800):
        ema.update([torch.zeros(1)])
    left = float(ema.weights[0])
    text = caution(0.999, 800)
    assert f"holds {left:.0%} of its first weights after 800 updates" in text
    best = float(text.partition("a rate of ")[2].partition(" ")[0])
    assert best**800 <= 0.05 < (best + 1e-4) ** 800
    assert "92%" in caution(0.9999, 800)
    assert caution(0.99, 800) == caution(0.0, 1) == caution(best, 800) == ""


@pytest.mark.parametrize("rate", [1, -0.1, 1.5, float("nan")])
def test_rate_out_of_range(rate):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMA([torch.zeros(1)], rate)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.2])
def test_power_is_the_sum_over_its_density(sigma_rel):
    """Update t of n has the share (t^(g + 1) - (t - 1)^(g + 1)) / n^(g + 1)."""
    start, *path = walk()
    power, n = Power(start, sigma_rel), len(path)
    for weights in path:
        power.update(weights)
    g, t = power.gamma, torch.arange(n + 1, dtype=torch.float64)
    shares = ((t / n) ** (g + 1)).diff()
    for i, average in enumerate(power.weights):
        expected = sum(share * w[i].double() for share, w in zip(shares, path))
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)


def test_power_has_begun_with_its_first_update():
    start, first = walk(2)
    power = Power(start)
    assert not power.started
    power.update(first)
    assert power.started and all(torch.equal(a, b) for a, b in zip(power.weights, first))
