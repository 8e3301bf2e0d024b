"""Timestep samplers against their formula; a draw that neither shards nor microbatches change."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chains import X_START, chain, toy

from flatdiff.chain.resample import (
    Draw,
    LossAwareSampler,
    LossSecondMomentResampler,
    ScheduleSampler,
    UniformSampler,
    create_named_schedule_sampler,
    draw,
)

CHAIN = SimpleNamespace(num_timesteps=8)


def warm(history_per_term=10, seen=200, **settings):
    """A second-moment sampler after some losses, and those losses by timestep."""
    sampler = LossSecondMomentResampler(CHAIN, history_per_term, **settings)
    rng = np.random.default_rng(0)
    ts = np.concatenate([np.arange(8).repeat(history_per_term), rng.integers(0, 8, seen)])
    losses = rng.exponential(1 + ts)
    sampler.update_with_all_losses(ts.tolist(), losses.tolist())
    return sampler, {t: losses[ts == t] for t in range(8)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_samplers_have_names():
    assert type(create_named_schedule_sampler("uniform", CHAIN)) is UniformSampler
    named = create_named_schedule_sampler("loss-second-moment", CHAIN)
    assert type(named) is LossSecondMomentResampler and isinstance(named, LossAwareSampler)
    with pytest.raises(ValueError, match="'fast'; valid are uniform, loss-second-moment"):
        create_named_schedule_sampler("fast", CHAIN)


def test_uniform_draws_each_timestep_alike():
    t, weights = UniformSampler(CHAIN).sample(8000, "cpu", seeded())
    assert t.dtype == torch.int64 and t.shape == (8000,)
    assert weights.dtype == torch.float32 and (weights == 1).all()
    assert (t.bincount(minlength=8) - 1000).abs().max() < 5 * 1000**0.5


def test_weights_are_the_second_moments_of_the_last_losses():
    sampler, losses = warm(uniform_prob=0.01)
    moments = np.array([np.sqrt(np.mean(losses[t][-10:] ** 2)) for t in range(8)])
    expected = 0.99 * moments / moments.sum() + 0.01 / 8
    np.testing.assert_allclose(sampler.weights(), expected, rtol=1e-12)


def test_weights_are_uniform_until_every_timestep_has_its_history():
    sampler = LossSecondMomentResampler(CHAIN, history_per_term=2)
    sampler.update_with_all_losses([0, 0, *range(1, 8), *range(1, 7)], [5.0] * 15)
    assert (sampler.weights() == 1).all()
    sampler.update_with_all_losses([7], [1.0])
    assert sampler.weights()[7] < sampler.weights()[0]


def test_draws_follow_the_weights_and_are_weighed_back():
    sampler, _ = warm()
    p = sampler.weights() / sampler.weights().sum()
    t, weights = sampler.sample(50000, "cpu", seeded())
    counts = np.bincount(t, minlength=8)
    assert (np.abs(counts - 50000 * p) < 5 * np.sqrt(50000 * p)).all()
    assert t.dtype == torch.int64 and weights.dtype == torch.float32
    np.testing.assert_allclose(weights, 1 / (8 * p[t]), rtol=1e-6)


def test_a_sampler_of_ones_own_needs_weights_alone():
    class Late(ScheduleSampler):
        def weights(self):
            return np.array([0.0, 0.0, 1.0, 3.0])

    sampler = Late()
    t, weights = sampler.sample(1000, "cpu", seeded())
    assert set(t.tolist()) == {2, 3}
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.0, 1.0, 1 / 3])[t])
    sampler.update_with_local_losses(t, weights)


Q = np.array([1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 0.5])


def test_a_chains_own_density_is_drawn_without_weights():
    sampler = UniformSampler(SimpleNamespace(num_timesteps=8, density=Q))
    t, weights = sampler.sample(50000, "cpu", seeded())
    expected = 50000 * Q / Q.sum()
    assert (np.abs(np.bincount(t, minlength=8) - expected) < 5 * np.sqrt(expected)).all()
    assert (weights == 1).all()


@pytest.mark.parametrize("seen", [0, 200])
def test_the_expected_loss_is_that_of_the_density(seen):
    losses = np.exp(np.arange(8) / 3)
    sampler = LossSecondMomentResampler(SimpleNamespace(num_timesteps=8, density=Q))
    if seen:
        sampler.update_with_all_losses(np.arange(8).repeat(10).tolist(), losses.repeat(10).tolist())
        wanted = Q * losses / (Q * losses).sum()
        np.testing.assert_allclose(sampler.weights(), wanted, atol=1e-3)
    t, weights = sampler.sample(50000, "cpu", seeded())
    terms = weights.double().numpy() * losses[t]
    error = terms.std() / len(terms) ** 0.5
    assert abs(terms.mean() - (Q * losses).sum() / Q.sum()) < 4 * error + 1e-6
    assert terms.std() / terms.mean() < (0.01 if seen else 1)  # what p is chosen for


def test_losses_that_overflowed_are_passed_over():
    sampler, _ = warm()
    expected = sampler.weights()
    sampler.update_with_all_losses([1, 2, 3], [np.inf, np.nan, -np.inf])
    np.testing.assert_array_equal(sampler.weights(), expected)


def test_ranks_learn_the_same():
    ts, losses = torch.tensor([[1, 2], [3, 1]]), torch.rand(2, 2)
    expected = LossSecondMomentResampler(CHAIN)
    expected.update_with_all_losses(ts.flatten().tolist(), losses.flatten().tolist())
    for rank in (0, 1):
        sampler, whole = LossSecondMomentResampler(CHAIN), [ts, losses]
        sampler.gather = lambda tensor: whole.pop(0).flatten()  # noqa: B023
        sampler.update_with_local_losses(ts[rank], losses[rank])
        for name, value in expected.state_dict().items():
            assert torch.equal(sampler.state_dict()[name], value)


def test_one_rank_learns_from_its_own():
    sampler = LossSecondMomentResampler(CHAIN, history_per_term=2)
    losses = torch.tensor([3.0, 4.0], requires_grad=True)
    sampler.update_with_local_losses(torch.tensor([5, 5]), losses)
    assert sampler.state_dict()["history"][5].tolist() == [3, 4]
    assert sampler.state_dict()["counts"].tolist() == [0, 0, 0, 0, 0, 2, 0, 0]


def test_history_survives_a_file():
    sampler, _ = warm()
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    twin = LossSecondMomentResampler(CHAIN)
    twin.load_state_dict(torch.load(file, weights_only=True))
    for each in (sampler, twin):
        each.update_with_all_losses([3, 3, 5], [9.0, 8.0, 7.0])
    np.testing.assert_array_equal(twin.weights(), sampler.weights())
    with pytest.raises(ValueError, match=r"\(8, 10\).*\(4, 10\)"):
        LossSecondMomentResampler(SimpleNamespace(num_timesteps=4)).load_state_dict(
            sampler.state_dict()
        )


FIELDS = ["x_start", "t", "noise", "weight", "input_noise"]


def assert_joined(parts, whole):
    for name in FIELDS:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    labels = torch.cat([part.model_kwargs["y"] for part in parts])
    assert torch.equal(labels, whole.model_kwargs["y"])


def batch(size=8):
    return torch.randn(size, 3, 4, 4, generator=seeded(1)), {"y": torch.arange(size)}


@pytest.mark.parametrize("sampler", [UniformSampler(CHAIN), warm()[0]])
@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_shards_change_nothing(sampler, num_shards):
    x_start, kwargs = batch()
    whole = draw(sampler, x_start, kwargs, seeded(), input_pertub=0.1)
    size = 8 // num_shards
    parts, after = [], set()
    for shard in range(num_shards):
        own, generator = slice(shard * size, (shard + 1) * size), seeded()
        labels = {"y": kwargs["y"][own]}
        parts.append(draw(sampler, x_start[own], labels, generator, shard, num_shards, 0.1))
        after.add(tuple(generator.get_state().tolist()))
    assert_joined(parts, whole)
    assert len(after) == 1


def test_a_draw_is_of_normals_and_its_extras_come_last():
    x_start, kwargs = batch(400)
    plain = draw(UniformSampler(CHAIN), x_start, kwargs, seeded())
    perturbed = draw(UniformSampler(CHAIN), x_start, kwargs, seeded(), input_pertub=0.1)
    assert plain.input_noise is None
    assert torch.equal(plain.t, perturbed.t) and torch.equal(plain.noise, perturbed.noise)
    for noise in (perturbed.noise, perturbed.input_noise):
        assert noise.shape == x_start.shape and noise.dtype == x_start.dtype
        assert abs(noise.mean()) < 0.04 and abs(noise.var() - 1) < 0.06
    assert abs((perturbed.noise * perturbed.input_noise).mean()) < 0.04


def test_a_share_of_the_labels_is_hidden_and_all_else_stays():
    x_start, kwargs = torch.zeros(4000, 1, 1, 1), {"y": torch.arange(4000) % 7}
    plain = draw(UniformSampler(CHAIN), x_start, kwargs, seeded(), input_pertub=0.1)
    hiding = {"class_dropout": 0.2, "null_label": 7}
    whole = draw(UniformSampler(CHAIN), x_start, kwargs, seeded(), input_pertub=0.1, **hiding)
    for name in FIELDS:
        assert torch.equal(getattr(whole, name), getattr(plain, name))
    hidden = whole.model_kwargs["y"] == 7
    assert abs(hidden.float().mean() - 0.2) < 4 * (0.16 / 4000) ** 0.5
    assert torch.equal(whole.model_kwargs["y"][~hidden], kwargs["y"][~hidden])
    assert torch.equal(plain.model_kwargs["y"], kwargs["y"])
    for shard in (0, 1):
        own = slice(shard * 2000, (shard + 1) * 2000)
        labels = {"y": kwargs["y"][own]}
        part = draw(UniformSampler(CHAIN), x_start[own], labels, seeded(), shard, 2, 0.1, **hiding)
        assert torch.equal(part.model_kwargs["y"], whole.model_kwargs["y"][own])


@pytest.mark.parametrize(("sizes", "expected"), [(3, [3, 3, 2]), (8, [8]), ([1, 7], [1, 7])])
def test_microbatches_are_the_batch(sizes, expected):
    x_start, kwargs = batch()
    whole = draw(UniformSampler(CHAIN), x_start, kwargs, seeded(), input_pertub=0.1)
    parts = whole.split(sizes)
    assert [len(part.t) for part in parts] == expected
    assert_joined(parts, whole)


def test_losses_do_not_depend_on_microbatches():
    diffusion = chain("100", input_pertub=0.1)
    x_start = torch.cat([X_START, -X_START, 0.5 * X_START])
    whole = draw(UniformSampler(diffusion), x_start, {}, seeded(), input_pertub=0.1)

    def losses(part: Draw):
        given = {"noise": part.noise, "input_noise": part.input_noise}
        return diffusion.training_losses(toy, part.x_start, part.t, part.model_kwargs, **given)

    expected = losses(whole)["loss"]
    torch.testing.assert_close(torch.cat([losses(p)["loss"] for p in whole.split(4)]), expected)


def test_a_part_without_input_noise():
    x_start, kwargs = batch()
    part = draw(UniformSampler(CHAIN), x_start, kwargs, seeded()).slice(2, 5)
    assert part.input_noise is None and part.model_kwargs["y"].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("history", torch.Tensor.long),
        ("history", lambda losses: losses * float("nan")),
        ("counts", torch.Tensor.double),
        ("counts", lambda counts: counts - 10**6),
        ("counts", lambda counts: counts[1:]),
    ],
)
def test_a_history_of_another_kind_is_refused(name, change):
    sampler = LossSecondMomentResampler(CHAIN)
    state = sampler.state_dict()
    sampler.load_state_dict(state)
    with pytest.raises(ValueError, match="the timestep sampler's"):
        sampler.load_state_dict(state | {name: change(state[name])})
