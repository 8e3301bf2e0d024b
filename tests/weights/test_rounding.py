"""Rounding against known numbers and torch's casts; what a network sees against closed forms."""

import math

import pytest
import small
import torch

from flatdiff import script_util
from flatdiff.models import networks
from flatdiff.models.rounding_log import arithmetics
from flatdiff.weights import perturb
from flatdiff.weights.rounding import enough, rounded, seen

STEPS = {"bf16": 2.0**-7, "tf32": 2.0**-10, "fp16": 2.0**-10, "fp32": 2.0**-23}  # above 1


@pytest.mark.parametrize("arithmetic", STEPS)
def test_numbers_next_to_1(arithmetic):
    """1, 1 + step, ... stay; between two of them the nearer, of a tie the even one."""
    step = STEPS[arithmetic]
    x = torch.tensor([0, 1, 2, 0.49, 0.51, 0.5, 1.5, 2.5], dtype=torch.float64) * step + 1
    x = torch.cat([x, -x, torch.tensor([0, math.inf, -math.inf, 2.0**-10])])
    expected = torch.tensor([0, 1, 2, 0, 1, 0, 2, 2]) * step + 1
    expected = torch.cat([expected, -expected, torch.tensor([0, math.inf, -math.inf, 2.0**-10])])
    assert rounded(x, arithmetic).tolist() == expected.tolist()
    assert rounded(torch.tensor(math.nan), arithmetic).isnan()


def test_tf32_has_the_fraction_of_fp16():
    """Ten bits both: where fp16's exponent reaches, they are the same rounding."""
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * 8
    x = x[x.abs() > 2.0**-14]
    assert torch.equal(rounded(x, "tf32"), x.half().float())


def spread(step, eps, size=200_000):
    """(w, w + eps, expected length and cosine): w uniform in [1, 2), eps a small part of a step.

    A share eps / step of the weights jumps, by a step: E d^2 = step eps, E d eps = eps^2.
    """
    g = torch.Generator().manual_seed(0)
    w = 1 + torch.rand(size, generator=g, dtype=torch.float64)
    sign = torch.randint(2, w.shape, generator=g) * 2 - 1
    return [w], [w + eps * sign], math.sqrt(step / eps), math.sqrt(eps / step)


@pytest.mark.parametrize("arithmetic", ["bf16", "tf32", "fp16"])
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_what_is_seen_of_small_moves(arithmetic, share):
    step = STEPS[arithmetic]
    w, moved, *expected = spread(step, share * step)
    assert seen(w, moved, [arithmetic]) == pytest.approx(expected, rel=0.02)
    assert seen(w, moved, ["fp32"]) == pytest.approx((1, 1), abs=1e-3)


def test_what_is_seen_of_several_weights():
    """One stays where it was, one jumps twice as far as meant, one is used as it is."""
    w = [torch.ones(1), torch.ones(1), torch.ones(1)]
    step = 2.0**-7
    moved = [torch.tensor([1 + x]) for x in (0.25 * step, 0.75 * step, 0.25 * step)]
    used = ["bf16", "bf16", "fp32"]
    meant, got = torch.tensor([0.25, 0.75, 0.25]), torch.tensor([0, 1, 0.25])
    cosine = float(meant @ got / (meant.norm() * got.norm()))
    assert seen(w, moved, used) == pytest.approx((float(got.norm() / meant.norm()), cosine))
    assert seen(w, moved, used, scale=4) == pytest.approx((1, 1))  # all are whole steps
    assert seen(w[:1], moved[:1], used[:1]) == (0, 0)
    assert all(map(math.isnan, seen(w, w, used)))
    assert all(map(math.isnan, seen(w, [w[0], w[1], w[2] * math.nan], used)))


def test_the_scale_that_is_enough():
    w, moved, *_ = spread(2.0**-7, 0.01 * 2.0**-7, 20_000)
    factor = enough(w, moved, ["bf16"], 0.9)
    assert pytest.approx(factor, rel=0.1) == 0.81 / 0.01  # cosine sqrt(eps / step), up to 1 step
    assert seen(w, moved, ["bf16"], factor)[1] >= 0.9 > seen(w, moved, ["bf16"], factor / 1.06)[1]
    assert enough(w, moved, ["fp32"], 0.9) == 1


def unet():
    model, _ = small.network(spread=0, channel_mult="1,2", class_cond=True, num_classes=3)
    return model, {"y": torch.tensor([0, 2])}


def classifier():
    flags = dict(classifier_width=32, classifier_depth=1, classifier_attention_resolutions="8")
    defaults = script_util.classifier_and_diffusion_defaults()
    model, _ = script_util.create_classifier_and_diffusion(**defaults | flags)
    return model, {}


@pytest.mark.parametrize("build", [unet, classifier])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_autocast_rounds_these_weights_and_no_others(build, dtype):
    """With these rounded beforehand the output is the same to the bit; with any other it is not."""
    torch.manual_seed(0)
    model, cond = build()
    weights = list(model.eval().parameters())
    with torch.no_grad():
        for w in weights:
            w.add_(0.05 * torch.randn(w.shape))
    used = arithmetics(model, dtype)
    size = 8 if cond else 64
    x, t = torch.randn(2, 3, size, size), torch.tensor([5, 70])

    @torch.no_grad()
    def output():
        with networks.casting(dtype, "cpu")():
            return model(x, t, **cond)

    expected = output()
    with perturb.at(list(used), rounding_to(dtype)):
        assert torch.equal(output(), expected)
    for other in [w for w in weights if w not in used]:
        with perturb.at([other], rounding_to(dtype)):
            assert not torch.equal(output(), expected)


def rounding_to(dtype):
    return lambda weights: perturb.replace([rounded(w, dtype) for w in weights])(weights)


def test_tf32_rounds_weights_of_convolutions_in_fp32_alone():
    model, _ = unet()
    used = arithmetics(model, "fp32", tf32=True)
    names = [name for name, w in model.named_parameters() if w in used]
    assert {used[w] for w in used} == {"tf32"}
    assert "input_blocks.0.0.weight" in names and "out.2.weight" in names
    assert not [n for n in names if "bias" in n or "qkv" in n or "proj" in n or "embed" in n]
    assert all(dict(model.named_parameters())[n].ndim == 4 for n in names)
    both = [n for n, w in model.named_parameters() if w in arithmetics(model, "fp32", True, True)]
    assert set(names) < set(both) and not [n for n in both if "bias" in n or "label" in n]
    assert {n.split(".")[-2] for n in set(both) - set(names)} >= {"qkv", "proj_out", "0", "1"}
    assert arithmetics(model, "fp32") == {}
    assert set(arithmetics(model, "bf16", tf32=True).values()) == {"bf16"}
