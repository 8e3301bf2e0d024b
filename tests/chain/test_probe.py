"""The fixed draws: strata, common random numbers, and losses that depend on them alone."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chains import toy

from flatdiff import script_util
from flatdiff.chain import probe
from flatdiff.data.image_datasets import to_float

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


def fixed_draws(images, t_range=T, seed=0, cond=None):
    plan = probe.plan(len(images), 1000, t_range, seed)
    return probe.fixed_draws(images, plan, seed, cond)


def losses_of(model, diffusion, draws, batch_size):
    return probe.losses(lambda part: part.losses(diffusion, model), draws.split(batch_size))


def everything(plan):
    return [torch.ones(len(plan.t), dtype=torch.bool)]


@pytest.mark.parametrize(
    "num_images, steps, t_range",
    [(512, 1000, 1000), (129, 1000, 1000), (64, 1000, 300), (6, 1000, 1000), (7, 40, 40)]
    + [(600, 40, 40), (9, 4, 4), (8, 3, 3), (9, 2, 2), (6, 1, 1), (12, 1000, 1), (64, 5, 4)],
)
def test_the_ends_of_the_chain_are_strata_and_every_timestep_counts_alike(
    num_images, steps, t_range
):
    """Weights of an end are its true share, and those of all t are alike over many seeds."""
    total = torch.zeros(t_range, dtype=torch.float64)
    for seed in range(200):
        plan = probe.plan(num_images, steps, t_range, seed)
        assert plan.t.min() >= 0 and plan.t.max() < t_range and len(plan.t) == num_images
        assert plan.weight.sum() == pytest.approx(num_images, rel=1e-12)
        assert plan.stratum.bincount().min() >= 2
        total.index_add_(0, plan.t, plan.weight / num_images)
        for end in {0, steps - 1} & set(range(t_range)):
            there = plan.t == end
            assert there.sum() >= max(2, num_images // 16)
            assert plan.weight[there].sum() == pytest.approx(num_images / t_range)
            assert torch.equal(there, torch.isin(plan.stratum, plan.stratum[there].unique()))
    share = torch.stack([part.mean() for part in total.tensor_split(10) if len(part)])
    share *= t_range / 200
    allowed = 5 * math.sqrt(3 * len(share) / num_images / 200) if t_range > 3 else 1e-9
    assert (share - 1).abs().max() < allowed
    assert not torch.equal(plan.t, probe.plan(num_images, steps, t_range, 1).t) or t_range == 1


@pytest.mark.parametrize("num_images", [128, 15])
def test_estimates_have_no_bias_and_their_errors_are_their_scatter(num_images):
    """Of a loss that stands for 90 % at the last step, where every tenth image has it all."""
    g = torch.Generator().manual_seed(0)
    images, steps = 2000, 50
    table = 1 / (1 + torch.arange(steps)) + torch.rand(images, steps, generator=g)
    table[:, -1] = 250 + 50 * torch.randn(images, generator=g)
    table = table.double()
    truth, quarter = float(table.mean()), float(table[:, :13].mean())
    found, errors, first, first_errors = [], [], [], []
    for seed in range(1500):
        plan = probe.plan(num_images, steps, steps, seed)
        g = torch.Generator().manual_seed(seed)
        values = table[torch.randperm(images, generator=g)[:num_images], plan.t]
        groups = [*everything(plan), plan.t < 13]
        for kept, value in zip((found, first), plan.means(values, groups)):
            kept.append(value)
        for kept, value in zip((errors, first_errors), plan.errors(values, groups)):
            kept.append(value)
    scatter = np.std(found, ddof=1)
    assert abs(np.mean(found) - truth) < 4 * scatter / math.sqrt(1500)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(scatter, rel=0.08)
    if num_images == 128:  # of a part, a ratio of two estimates
        assert abs(np.mean(first) - quarter) < 4 * np.std(first) / math.sqrt(1500) + 1e-3
        rms = np.sqrt(np.mean(np.square(first_errors)))
        assert rms == pytest.approx(np.std(first, ddof=1), rel=0.1)


@pytest.mark.parametrize("distinct", [4, 20, 30, 40])
def test_an_image_that_is_used_again_is_not_a_new_one(distinct):
    """40 values of `distinct` images, that differ by 1, and by 1 more each time they are used."""
    found, errors = [], []
    for seed in range(1000):
        g = torch.Generator().manual_seed(seed)
        own = torch.randn(distinct, generator=g, dtype=torch.float64)
        plan = probe.plan(40, 1000, 1000, seed, distinct)
        values = own.repeat(10)[:40] + torch.randn(40, generator=g, dtype=torch.float64)
        found += plan.means(values, everything(plan))
        errors += plan.errors(values, everything(plan))
    rms = np.sqrt(np.mean(np.square(errors)))
    assert 0.92 < rms / np.std(found) < 1.15
    plan = probe.plan(40, 1000, 1000, 0, 1)
    assert math.isnan(plan.errors(torch.rand(40).double(), everything(plan))[0])


def test_the_losses_of_a_chain_are_those_over_all_of_it():
    """A plan's mse, vb and loss, against every image at every timestep with 150 noises each."""
    diffusion = script_util.create_gaussian_diffusion(
        steps=T, noise_schedule="cosine", learn_sigma=True
    )
    images = probe.images_of(dataset(12), 12, 0)[0]
    x, t = images.repeat_interleave(T, 0), torch.arange(T).repeat(12)
    truth = {}
    for k in range(150):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
        for name, losses in diffusion.training_losses(toy, x, t, noise=noise).items():
            truth[name] = truth.get(name, 0) + float(losses.double().mean()) / 150
    found = {name: [] for name in truth}
    for seed in range(300):
        plan = probe.plan(12, T, T, seed)
        draws = probe.fixed_draws(images, plan, seed)
        for name, losses in losses_of(toy, diffusion, draws, 12).items():
            found[name] += plan.means(losses, everything(plan))
    for name, values in found.items():
        error = np.std(values) / math.sqrt(300)
        assert abs(np.mean(values) - truth[name]) < 4 * error < 0.05 * truth[name]


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
    with pytest.raises(ValueError, match=f"t_range is {t_range}"):
        probe.plan(8, 40, t_range, seed=0)
    with pytest.raises(ValueError, match="num_images is 5; expected 6 or more"):
        probe.plan(5, 40, 40, seed=0)


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
    draws = fixed_draws(images, seed=5)
    fewer = fixed_draws(torch.ones(7, 3, 8, 8), t_range=7, seed=5)
    assert torch.equal(draws.noise, fewer.noise[:6])
    assert not torch.equal(draws.noise, fixed_draws(images, seed=6).noise)
    noise = fixed_draws(torch.zeros(200, 3, 8, 8)).noise
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.02
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 6 / math.sqrt(192)


def test_losses_are_the_mean_squared_error_of_a_known_network():
    draws = fixed_draws(torch.zeros(6, 3, 8, 8))
    found = losses_of(lambda x, t: torch.ones_like(x), chain(), draws, 4)
    expected = (draws.noise.double() - 1).square().mean(dim=(1, 2, 3))
    assert found.keys() == {"mse", "loss"} and found["mse"].dtype == torch.float64
    torch.testing.assert_close(found["loss"], expected, rtol=1e-6, atol=0)


def test_losses_do_not_depend_on_batches_or_on_input_perturbation():
    draws = fixed_draws(probe.images_of(dataset(10), 10, 0)[0])
    model, diffusion = network(), chain(learn_sigma=True)
    whole = losses_of(model, diffusion, draws, 10)
    assert whole.keys() == {"mse", "vb", "loss"}
    torch.testing.assert_close(whole["loss"], whole["mse"] + whole["vb"], rtol=1e-6, atol=0)
    parts = losses_of(model, diffusion, draws, 3)
    torch.testing.assert_close(parts["loss"], whole["loss"], rtol=1e-5, atol=0)
    perturbed = chain(learn_sigma=True, input_pertub=0.5)
    again = losses_of(model, perturbed, draws, 10)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_labels_reach_the_network():
    images, cond = probe.images_of(dataset(6, labels=True), 6, seed=0)
    draws = fixed_draws(images, cond=cond)
    seen = []
    losses_of(lambda x, t, y: seen.append(y) or x, chain(), draws, 4)
    assert torch.equal(torch.cat(seen), cond["y"])


def test_means_and_errors_by_quarter():
    t = torch.tensor([0, 9, 10, 25, 30, 39])
    losses = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0, 11.0], dtype=torch.float64)
    groups = probe.quarters(t, 40)
    one = torch.zeros(6, dtype=torch.long)
    plain = probe.Plan(t, torch.ones(6).double(), one, torch.arange(6))
    assert plain.means(losses, groups) == [6, 2, 5, 7, 10]
    errors = plain.errors(losses, groups)
    assert errors[0] == pytest.approx(np.std(losses.numpy(), ddof=1) / math.sqrt(6))
    assert errors[1] == pytest.approx(math.sqrt(6 / 5 * 2 / 4)) and math.isnan(errors[2])
    late = groups[1] & (t > 20)
    assert math.isnan(plain.means(losses, [late])[0])
    tiny = torch.tensor([1.0, 1e100, 1.0, -1e100, 0, 0], dtype=torch.float64)
    assert plain.means(tiny, groups[:1]) == [2 / 6]
    weighted = probe.Plan(t, losses, one, torch.arange(6))
    assert weighted.means(losses, groups)[1] == (1 * 1 + 3 * 3) / 4


def test_the_batch_is_halved_until_it_fits():
    tried = []

    def run(batch_size):
        tried.append(batch_size)
        if batch_size > 13:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert probe.fitting(run, 100) == 13 and tried == [100, 50, 25, 13]
    with pytest.raises(torch.OutOfMemoryError):
        probe.fitting(lambda _: run(99), 4)


@pytest.mark.parametrize("limits", [(-8.8, 12.4), (-30.0, 30.0), (-5.0, 3.0)])
def test_levels_by_log_snr_count_it_evenly_with_both_ends(limits):
    """Means of lambda and its square over the whole range, whatever the strata."""
    low, high = limits
    log_snr, plan = probe.plan_of_log_snr(400, low, high, seed=2)
    whole = [torch.ones(400, dtype=torch.bool)]
    for power, wanted in ((1, (low + high) / 2), (2, (high**3 - low**3) / (high - low) / 3)):
        (mean,), (error,) = plan.means(log_snr**power, whole), plan.errors(log_snr**power, whole)
        assert abs(mean - wanted) < 4 * error and error < 0.02 * (high - low) ** power
    assert log_snr.min() >= low and log_snr.max() <= high
    beyond = (log_snr < -8).sum(), (log_snr > 8).sum()
    assert [int(n) for n in beyond] == [25 * (low < -8), 25 * (high > 8)]


def test_families_that_reach_far_enough_share_their_levels():
    (a, p), (b, q) = (probe.plan_of_log_snr(64, *ends, 0) for ends in ((-9, 12.4), (-14, 14)))
    shared = a.abs() < 8
    assert shared.sum() == 64 - 8 and torch.equal(a[shared], b[shared])
    assert torch.equal(p.stratum, q.stratum) and not torch.equal(a, b)
    with pytest.raises(ValueError, match="a log-SNR of 9 to 12; expected some between -8 and 8"):
        probe.plan_of_log_snr(64, 9, 12, 0)
    with pytest.raises(ValueError, match="there are 5 images; expected 6 or more"):
        probe.plan_of_log_snr(5, -9, 9, 0)


@pytest.mark.parametrize("num_images", [6, 41, 200])
def test_the_squares_of_deviations_are_that_of_the_error(num_images):
    plan = probe.plan(num_images, 100, 100, seed=1)
    values = torch.rand(num_images, dtype=torch.float64) * (1 + plan.t)
    (error,) = plan.errors(values, [torch.ones(num_images).bool()])
    assert float(plan.deviations(values).norm()) == pytest.approx(error)
    double = plan.deviations(2 * values + 5)
    torch.testing.assert_close(double, 2 * plan.deviations(values))
