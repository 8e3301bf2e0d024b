"""Curvature in the log: the numbers are of the step, and the training is what it is without."""

import dataclasses

import pytest
import torch
from training import equal, loop

from flatdiff.chain.resample import draw
from flatdiff.models import networks
from flatdiff.rng import TRAIN, generator
from flatdiff.train import curvature
from flatdiff.world import logger

pytestmark = pytest.mark.usefixtures("quiet")
NAMES = {"critical_step", "critical_sharpness", "update_curvature"}
KINDS = {
    "dropout": dict(dropout=0.4, microbatch=3),
    "sam bf16": dict(dropout=0.4, dtype="bf16", optimizer="adam-sam", rho=0.2),
    "friendly": dict(optimizer="adam-fsam", rho=0.2, base_optimizer="muon"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_training_is_bit_for_bit_the_one_without(name):
    """Weights, averages, the optimizer's state, what is logged, and the generators; the network
    goes on in training."""
    runs, states = [], []
    for interval in (0, 2):
        run = loop(**KINDS[name], curvature_interval=interval)
        for _ in range(5):
            run.run_step(*next(run.data))
        assert run.model.training
        assert (logger.getkvs().keys() >= NAMES) == bool(interval)
        runs.append(run)
        states.append(torch.get_rng_state())
    a, b = runs
    assert equal(a.weights, b.weights) and equal(a.emas[0.9].weights, b.emas[0.9].weights)
    moments = [[v for s in run.opt.state.values() for v in s.values()] for run in runs]
    assert equal(*moments) and torch.equal(*states)
    for x, y in zip(a.history, b.history):
        assert all(torch.equal(x[key], y[key]) for key in x)


def test_the_loss_is_back_where_the_critical_step_leads(monkeypatch):
    """Of a step taken here: phi(c*) = phi(0) < phi(c* / 2), the loss without dropout of the same
    draws; and what is logged is the mean of steps 2 and 4."""
    seen, plain = [], curvature.along_step

    def watched(loss, weights, before, lr):
        found = plain(loss, weights, before, lr)
        seen.append((found, [b.clone() for b in before], [w.detach().clone() for w in weights]))
        return found

    monkeypatch.setattr(curvature, "along_step", watched)
    run, given = loop(dropout=0.3, microbatch=3, curvature_interval=2, lr=1e-2), []
    plain_gradient = run.gradient
    run.gradient = lambda draws: given.append(draws) or plain_gradient(draws)
    for _ in range(4):
        run.run_step(*next(run.data))
    assert len(seen) == 2
    shown = {name: sum(found[name] for found, *_ in seen) / 2 for name in NAMES}
    logged = logger.getkvs()
    assert {name: logged[name] for name in NAMES} == pytest.approx(shown)
    run.model.eval()
    for (found, before, after), draws in zip(seen, given[1::2]):
        assert found["critical_sharpness"] == pytest.approx(2 / (found["critical_step"] * 1e-2))

        @torch.no_grad()
        def phi(c):
            for w, a, b in zip(run.weights, before, after):  # noqa: B023
                w.copy_(a + c * (b - a))
            return draws.losses(run.diffusion, run.model)["loss"].double().mean().item()  # noqa: B023

        start, middle, end = (phi(c * found["critical_step"]) for c in (0, 0.5, 1))
        assert middle < start and abs(end - start) < 0.05 * (start - middle)


def test_the_loss_is_weighed_as_in_training():
    """Its microbatches of 3 and 1 images, of weights 1, 2, 3 and 4."""
    run = loop(microbatch=3)
    one = draw(run.schedule_sampler, next(run.data)[0], {}, generator(3, TRAIN, 0))
    one = dataclasses.replace(one, weight=torch.arange(1.0, 5.0))
    run.model.eval()
    with torch.no_grad():
        losses = one.losses(run.diffusion, run.model)["loss"].double()
        expected = float((losses * one.weight).mean())
        assert curvature.mean_loss(run, one) == pytest.approx(expected, rel=1e-5)


def test_a_compiled_network_is_asked_as_it_is_written():
    """No graph is made for it, and the compiled one is there again afterwards."""
    run = loop(curvature_interval=1)
    networks.compile_network(run.model)
    compiled = run.model._compiled_call_impl = lambda *args, **kwargs: pytest.fail("compiled")
    batch, _ = next(run.data)
    draws = draw(run.schedule_sampler, batch, {}, generator(3, TRAIN, 0))
    before = [w.detach() + 1e-3 for w in run.weights]
    run.opt.param_groups[0]["lr"] = 1e-3
    with curvature.watched(run, draws), torch.no_grad():
        torch._foreach_copy_(run.weights, before)
    assert run.model._compiled_call_impl is compiled
    assert "update_curvature" in logger.getkvs()
