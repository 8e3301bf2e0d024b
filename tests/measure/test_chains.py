"""Where terms are averaged: over timesteps, by training's density, and evenly over log-SNR."""

import numpy as np
import pytest
import torch
from flatness_studies import arguments, study

import flatdiff
from flatdiff.chain import probe
from flatdiff.chain.levels import Levels
from flatdiff.measure import chains
from flatdiff.script_util import create_gaussian_diffusion

COSINE = create_gaussian_diffusion(steps=1000, noise_schedule="cosine")


def test_the_axis_of_x_counts_log_snr_evenly():
    plan = probe.plan(1000, 1000, 1000, 0)
    log_snr = torch.from_numpy(COSINE.log_snr)[plan.t]
    (axis,) = chains.axis_of_x(plan, COSINE.log_snr).values()
    assert axis.of("means", log_snr) == pytest.approx([0, 6, 2, -2, -6], abs=0.1)
    assert axis.of("means", log_snr**2) == pytest.approx(
        [64 / 3, 112 / 3, 16 / 3, 16 / 3, 112 / 3], rel=0.05
    )
    assert list(axis.parts)[1:] == [f"log-SNR {low}..{low + 4}" for low in (4, 0, -4, -8)]


def test_x_mse_says_which_log_snr_it_is_of():
    """A range of timesteps, or a short chain, that does not reach from -8 to 8 is told as it is."""
    model, told, images = torch.nn.Conv2d(3, 3, 1).eval(), {}, (torch.zeros(64, 3, 2, 2), {}, 64)
    model.forward = lambda x, t: torch.nn.functional.conv2d(x, model.weight)
    for t_range in (0, 200):
        subject = chains.of_chain("a", "", model, COSINE, images, t_range=t_range)
        told[t_range] = {name: text for name, (text, _) in subject.axes["x_mse"].parts.items()}
    names = ["all", *(f"log-SNR {low}..{low + 4}" for low in (4, 0, -4, -8))]
    assert list(told[0]) == list(told[200]) == names
    assert list(told[0].values()) == ["log-SNR -8..8", *names[1:]]
    end = COSINE.log_snr[199]
    assert 0 < end < 4
    assert list(told[200].values()) == [
        f"log-SNR {end:.3g}..8",
        "log-SNR 4..8",
        f"log-SNR {end:.3g}..4",
        "",
        "",
    ]


def test_a_chain_of_one_timestep_has_the_error_of_the_image_there():
    """x_mse is mse times (1 - a) / a of its alpha-bar a."""
    linear = create_gaussian_diffusion(steps=100, noise_schedule="linear")
    alpha_bar = 1 - 1000 / 100 * 1e-4
    model, images = torch.nn.Conv2d(3, 3, 1).eval(), (torch.zeros(64, 3, 2, 2), {}, 64)
    model.forward = lambda x, t: torch.nn.functional.conv2d(x, model.weight)
    subject = chains.of_chain("a", "", model, linear, images, t_range=1)
    mse, x_mse = (subject.at_w[subject.terms.index(name)] for name in ("mse", "x_mse"))
    assert float(x_mse[0]) == pytest.approx(float(mse[0]) * (1 - alpha_bar) / alpha_bar)
    assert subject.errors[subject.terms.index("x_mse"), 0] > 0
    log_snr = f"log-SNR {np.log(alpha_bar / (1 - alpha_bar)):.3g}"
    told = [text for text, _ in subject.axes["x_mse"].parts.values()]
    assert told == [log_snr, log_snr, "", "", ""] and float(x_mse[1]) == float(x_mse[0])


def test_terms_as_trained_count_timesteps_by_the_density_of_training():
    class Net(torch.nn.Module):
        """Is off by a known function of the level."""

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, times):
            return self.scale * (x - x + times.view(-1, 1, 1, 1))

    density = np.arange(1, 101.0)
    density /= density.sum()
    levels = Levels(np.linspace(9, -9, 100), "flow", "v", density=density, times=np.arange(100.0))
    images = torch.zeros(400, 3, 2, 2)
    subject = chains.of_chain("a", "", Net().eval(), levels, (images, {}, 400))
    t = np.arange(100)
    noise = 1.0  # E noise^2, of the target noise - 0
    wanted = [(density * (t**2 + noise)).sum()]
    for part in np.split(t, 4):
        wanted.append((density * (t**2 + noise))[part].sum() / density[part].sum())
    assert subject.at_w[0].tolist() == pytest.approx(wanted, rel=0.03)
    assert abs(subject.at_w[0, 0] - wanted[0]) < 4 * subject.errors[0, 0]
    assert subject.errors[0, 0] < 0.003 * wanted[0]
    assert subject.plan.weight.mean().item() == pytest.approx(1)
    evenly = subject.axes["x_mse"].of("means", subject.log_snr)  # whatever training's density
    assert evenly == pytest.approx([0, 6, 2, -2, -6], abs=0.1)


def test_a_checkpoint_at_the_door_is_the_one_of_the_script(folder, tmp_path):
    argv = arguments(folder, tmp_path, "--num_images", "16", "--flatness")
    path = f"{folder}/runs/a/model000007.pt"
    for kind, given in (
        ("LPF", {"sigma": [0.005, 0.02], "num_draws": 4}),
        ("MC", {"radius": [1.0], "num_draws": 4}),
        ("HESSIAN", {"num_draws": 4, "num_eigenvalues": 1}),
    ):
        record = study([*argv, kind])
        subject = flatdiff.subject.from_checkpoint(
            path, f"{folder}/images.npz", num_images=16, batch_size=9
        )
        found = flatdiff.flatness(subject, kind, progress=False, **given)
        (model,) = [m for m in record["models"] if m["path"] == path]
        ours = found.records[kind]["models"][0]
        assert {k: v for k, v in ours.items() if k != "name"} == {
            k: v for k, v in model.items() if k != "name" and "minus_first" not in k
        }


def test_the_same_images_and_seed_are_known_by_their_fingerprint():
    images = torch.randn(4, 3, 2, 2)
    same, other = images.clone(), images + 1e-6
    assert chains.fingerprint([images, 0]) == chains.fingerprint([same, 0])
    assert len({chains.fingerprint(x) for x in ([images, 0], [images, 1], [other, 0])}) == 3
