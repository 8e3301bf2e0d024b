"""A linear denoiser of Gaussian data, in every parametrization: one network, so one set of numbers.

    x_guess = g A (x_0 + s eps),  g = 1 / (1 + s^2),  s^2 = exp(-lambda)

Its error in x has closed forms at each log-SNR lambda, and so have the rise of LPF and the Hessian.
"""

import math

import numpy as np
import pytest
import torch

import flatdiff
from flatdiff.chain.levels import Levels
from flatdiff.exchange import families

D, VARIANCE, SIGMA, N = 3, 0.4, 0.05, 400
FAMILIES = [("cosine", p) for p in ("eps", "x", "v")]
FAMILIES += [("flow", p) for p in ("v", "x", "eps")] + [("edm", p) for p in ("F", "x", "eps")]
DATA = math.sqrt(VARIANCE) * torch.randn(N, D, generator=torch.Generator().manual_seed(1))


class Denoiser(torch.nn.Module):
    """A [D, D], as it would be trained on each path to predict each target."""

    def __init__(self, schedule, predicts):
        super().__init__()
        self.schedule_, self.predicts = schedule, predicts
        generator = torch.Generator().manual_seed(0)
        self.A = torch.nn.Parameter(torch.eye(D) + 0.3 * torch.randn(D, D, generator=generator))
        self.chain = families.family("cosine", "eps").timesteps

    def coefficients(self, told):
        """alpha, sigma, and the target's (to_x, to_eps), by the papers, from what it is told."""
        told = told.double()
        if self.schedule_ == "cosine":
            log_snr = torch.from_numpy(self.chain)[told.long()]
            alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        elif self.schedule_ == "flow":
            alpha, sigma = 1 - told, told
        else:
            sigma = (4 * told).exp() if self.predicts == "F" else told
            alpha = torch.ones_like(sigma)
        one, total = torch.ones_like(sigma), sigma**2 + 0.25
        skip, out = 0.25 / total, sigma * 0.5 / total.sqrt()
        target = {
            "x": (one, 0 * one),
            "eps": (0 * one, one),
            "v": (-one, one) if self.schedule_ == "flow" else (-sigma, alpha),
            "F": ((1 - skip * alpha) / out, -skip * sigma / out),
        }[self.predicts]
        return alpha, sigma, *target

    def forward(self, x_t, told):
        alpha, sigma, to_x, to_eps = (c[:, None] for c in self.coefficients(told))
        x_t = x_t.double()
        if self.predicts == "F":
            x_t = x_t * (sigma**2 + 0.25).sqrt()
        gain = alpha**2 / (alpha**2 + sigma**2)
        guess = gain * (x_t / alpha) @ self.A.double().T
        return (to_x * guess + to_eps * (x_t - alpha * guess) / sigma).float()


def error(a, log_snr):
    """E |x_guess - x_0|^2 / D at each log-SNR."""
    s2 = np.exp(-log_snr)
    g = 1 / (1 + s2)
    off = g[:, None, None] * a - np.eye(D)
    return (VARIANCE * (off**2).sum(axis=(1, 2)) + g**2 * s2 * (a**2).sum()) / D


@pytest.fixture(scope="module")
def cosine():
    return flatdiff.subject(
        Denoiser("cosine", "eps").eval(), DATA, schedule="cosine", predicts="eps"
    )


@pytest.fixture(scope="module")
def subjects(cosine):
    return {
        (schedule, predicts): flatdiff.subject(
            Denoiser(schedule, predicts).eval(),
            DATA,
            schedule=schedule,
            predicts=predicts,
            levels=cosine,
        )
        for schedule, predicts in FAMILIES
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_error_of_each_image_is_one_in_all_parametrizations(subjects, cosine, family):
    subject, row = subjects[family], cosine.terms.index("x_mse")
    inside = cosine.log_snr.abs() < 8  # beyond, fp32 divides by what is next to nothing
    torch.testing.assert_close(subject.log_snr, cosine.log_snr)
    found = subject.own[subject.terms.index("x_mse")][inside]
    torch.testing.assert_close(found, cosine.own[row][inside], rtol=3e-3, atol=1e-6)
    index = subject.terms.index("x_mse")
    torch.testing.assert_close(subject.at_w[index], cosine.at_w[row], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_rises_have_the_closed_forms_at_each_part_of_the_axis(subjects, family):
    """E over A' = A + sigma Z of the rise is sigma^2 g^2 (VARIANCE + s^2) D."""
    subject, size = subjects[family], 0.05
    found = flatdiff.flatness(subject, "LPF", sigma=[size], num_draws=60, progress=False)
    a = subject.model.A.detach().double().numpy()
    rows = [row for row in found.rows + found.parts if row["term"] == "x_mse"]
    assert len(rows) == 5
    for row, edges in zip(rows, ((-8, 8), (4, 8), (0, 4), (-4, 0), (-8, -4))):
        log_snr = np.linspace(*edges, 4001)
        s2 = np.exp(-log_snr)
        rise = size**2 * ((VARIANCE + s2) / (1 + s2) ** 2).mean() * D
        assert abs(row["at_w"] - error(a, log_snr).mean()) < 4 * at_w_error(subject, row)
        assert abs(row["rise"] - rise) < 4 * row["error"] + 0.01 * rise
        assert row["error"] < 0.3 * rise


def at_w_error(subject, row):
    parts = list(subject.axes["x_mse"].parts)
    return float(subject.errors[subject.terms.index("x_mse"), parts.index(row.get("part", "all"))])


@pytest.mark.parametrize("schedule", ["cosine", "flow", "edm"])
def test_the_trace_of_the_hessian_is_the_closed_form(schedule):
    """Of the mean over training's levels of |x_guess - x_0|^2 / D: 2 E g^2 (VARIANCE + s^2) D."""
    net = Denoiser(schedule, "x").eval()
    subject = flatdiff.subject(net, DATA, schedule=schedule, predicts="x", seed=3)
    found = flatdiff.flatness(
        subject, "HESSIAN", num_draws=40, num_eigenvalues=1, progress=False
    ).rows
    trace, top = found
    family = families.family(schedule, "x")
    log_snr = np.linspace(*family.limits, 20001)
    density = family.density(log_snr)
    s2 = np.exp(-log_snr)
    each = (VARIANCE + s2) / (1 + s2) ** 2 * density / density.sum()
    assert abs(trace["value"] - 2 * D * each.sum()) < 4 * trace["error"]
    assert trace["error"] < 0.2 * trace["value"]
    assert abs(top["value"] - 2 / D * each.sum()) < 0.25 * top["value"]  # the sample's own top


def test_a_family_without_shared_levels_agrees_within_its_errors(subjects):
    """Levels by seed alone, flow and EDM: alike from -8 to 8, so the numbers are too."""
    made = [
        flatdiff.subject(Denoiser(s, p).eval(), DATA, schedule=s, predicts=p, seed=5)
        for s, p in (("flow", "v"), ("edm", "x"))
    ]
    inside = made[0].log_snr.abs() < 8
    torch.testing.assert_close(made[0].log_snr[inside], made[1].log_snr[inside])
    found = [flatdiff.flatness(s, "LPF", sigma=[SIGMA], num_draws=4, progress=False) for s in made]
    (row,) = [r for r in found[0].compare(found[1]) if r["term"] == "x_mse"]
    assert abs(row["difference"]) < 1e-5 and row["error"] < 1e-5  # paired, and one network


def test_perfect_levels_have_the_posteriors_variance():
    log_snr = np.linspace(8, -8, 9)
    assert Levels(log_snr, "flow", "v").x_factor[4] == pytest.approx(0.25)
