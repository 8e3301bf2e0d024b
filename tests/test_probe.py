"""The fixed draws: strata, common random numbers, and losses that depend on them alone."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flatdiff import probe, script_util
from flatdiff.image_datasets import to_float

T = 40


def chain(**flags):
    return script_util.create_gaussian_diffusion(steps=T, noise_schedule="cosine", **flags)


def network():
    torch.manual_seed(0)
    model = script_util.create_model(8, 32, 1, channel_mult="1", learn_sigma=True)
    with torch.no_grad():
        for w in model.parameters():
            w.add_(0.05 * torch.randn_like(w))
    return model.eval()


def dataset(num_images, labels=False):
    squares = np.random.default_rng(1).integers(0, 256, (num_images, 8, 8, 3), np.uint8)
    return SimpleNamespace(
        num_images=num_images,
        image=lambda i: squares[i],
        labels=np.arange(num_images) if labels else None,
        squares=squares,
    )


@pytest.mark.parametrize("num_images, t_range", [(64, 1000), (1000, 1000), (4096, 1000), (7, 3)])
def test_one_timestep_from_each_stratum(num_images, t_range):
    t = probe.timesteps(num_images, t_range, seed=3)
    edges = torch.arange(num_images + 1, dtype=torch.float64) * t_range / num_images
    ordered = t.sort().values
    assert (ordered >= edges[:-1].floor()).all() and (ordered <= edges[1:].ceil() - 1).all()
    assert not torch.equal(t, ordered)
    assert not torch.equal(t, probe.timesteps(num_images, t_range, seed=4))


def test_quarters_have_equal_counts_and_all_timesteps_are_alike():
    t = torch.stack([probe.timesteps(16, 40, seed) for seed in range(400)])
    assert ((t // 10).sort(dim=1).values == torch.arange(4).repeat_interleave(4)).all()
    share = torch.bincount(t.flatten(), minlength=40) / t.numel()
    assert (share - 1 / 40).abs().max() < 5 * math.sqrt(1 / 40 / t.numel())
    by_image = t.double().mean(dim=0)  # no image has its own region of the range
    assert (by_image - 19.5).abs().max() < 5 * 40 / math.sqrt(12 * 400)


@pytest.mark.parametrize("t_range", [0, -1])
def test_a_range_without_timesteps_is_refused(t_range):
    with pytest.raises(ValueError, match=f"t_range is {t_range}"):
        probe.timesteps(4, t_range, seed=0)


def test_images_are_chosen_once_and_scaled_as_in_training():
    data = dataset(20, labels=True)
    images, cond = probe.images_of(data, 20, seed=0)
    assert sorted(cond["y"].tolist()) == list(range(20)) != cond["y"].tolist()
    assert torch.equal(images, to_float(data.squares[cond["y"].numpy()]))
    again, more = probe.images_of(data, 50, seed=0)
    assert torch.equal(again[:20], images) and torch.equal(again[20:40], images)
    assert more["y"].bincount().min() == 2
    assert probe.images_of(dataset(20), 4, seed=0)[1] == {}


def test_noise_of_an_image_depends_on_seed_and_index_alone():
    images = torch.zeros(6, 3, 8, 8)
    draws = probe.fixed_draws(images, T, seed=5)
    fewer = probe.fixed_draws(images[:2] + 1, 7, seed=5)
    assert torch.equal(draws.noise[:2], fewer.noise)
    assert not torch.equal(draws.noise, probe.fixed_draws(images, T, seed=6).noise)
    noise = probe.fixed_draws(torch.zeros(200, 3, 8, 8), T, seed=0).noise
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.02
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 6 / math.sqrt(192)


def test_losses_are_the_mean_squared_error_of_a_known_network():
    draws = probe.fixed_draws(torch.zeros(6, 3, 8, 8), T, seed=0)
    found = probe.losses(lambda x, t: torch.ones_like(x), chain(), draws, batch_size=4)
    expected = (draws.noise.double() - 1).square().mean(dim=(1, 2, 3))
    assert found.keys() == {"mse", "loss"} and found["mse"].dtype == torch.float64
    torch.testing.assert_close(found["loss"], expected, rtol=1e-6, atol=0)


def test_losses_do_not_depend_on_batches_or_on_input_perturbation():
    draws = probe.fixed_draws(probe.images_of(dataset(10), 10, 0)[0], T, seed=0)
    model, diffusion = network(), chain(learn_sigma=True)
    whole = probe.losses(model, diffusion, draws, batch_size=10)
    assert whole.keys() == {"mse", "vb", "loss"}
    torch.testing.assert_close(whole["loss"], whole["mse"] + whole["vb"], rtol=1e-6, atol=0)
    parts = probe.losses(model, diffusion, draws, batch_size=3)
    torch.testing.assert_close(parts["loss"], whole["loss"], rtol=1e-5, atol=0)
    perturbed = chain(learn_sigma=True, input_pertub=0.5)
    again = probe.losses(model, perturbed, draws, batch_size=10)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_labels_reach_the_network():
    images, cond = probe.images_of(dataset(6, labels=True), 6, seed=0)
    draws = probe.fixed_draws(images, T, 0, cond)
    seen = []
    probe.losses(lambda x, t, y: seen.append(y) or x, chain(), draws, batch_size=4)
    assert torch.equal(torch.cat(seen), cond["y"])


def test_means_and_errors_by_quarter():
    t = torch.tensor([0, 9, 10, 25, 30, 39])
    losses = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0, 11.0], dtype=torch.float64)
    groups = probe.quarters(t, 40)
    assert probe.means(losses, groups) == [6, 2, 5, 7, 10]
    errors = probe.errors(losses, groups)
    assert errors[0] == pytest.approx(np.std(losses.numpy(), ddof=1) / math.sqrt(6))
    assert errors[1] == pytest.approx(1) and math.isnan(errors[2])
    assert math.isnan(probe.means(losses[:1], probe.quarters(t[:1], 40))[2])
    tiny = torch.tensor([1.0, 1e100, 1.0, -1e100], dtype=torch.float64)
    assert probe.means(tiny, [torch.ones(4, dtype=torch.bool)]) == [0.5]


def test_the_batch_is_halved_until_it_fits():
    tried = []

    def run(batch_size):
        tried.append(batch_size)
        if batch_size > 13:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert probe.fitting(run, 100) == 13 and tried == [100, 50, 25, 13]
    with pytest.raises(torch.OutOfMemoryError):
        probe.fitting(lambda _: run(99), 4)
