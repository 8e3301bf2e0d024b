"""One step against plain torch, what must change nothing, and resuming bit for bit."""

import copy
import json
import math
import os
from pathlib import Path

import pytest
import torch
from networks import fill
from training import close, data, equal, loop, network, train

from flatdiff import script_util
from flatdiff.chain.resample import Draw, create_named_schedule_sampler, draw
from flatdiff.kernels import build
from flatdiff.models import networks
from flatdiff.rng import TRAIN, generator
from flatdiff.store import checkpoint
from flatdiff.train import train_util
from flatdiff.train.train_util import TrainLoop
from flatdiff.world import logger

pytestmark = pytest.mark.usefixtures("quiet")


def test_an_ema_that_will_hold_its_start_is_told(tmp_path):
    logger.configure(str(tmp_path / "told"), format_strs=["log"])
    loop(ema_rate="0.9,0.1").run_loop()
    (line,) = [x for x in (tmp_path / "told/log.txt").read_text().splitlines() if "EMA" in x]
    assert "warning: an EMA of rate 0.9 holds 53% of its first weights after 6 updates" in line


@pytest.mark.parametrize("deterministic", [False, True])
def test_tf32_and_kernels_that_repeat_their_bits_are_the_trainings_alone(deterministic):
    def now(_=None):
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        seen.append((*tf32, torch.are_deterministic_algorithms_enabled()))

    seen = []
    now()
    loop(end_step=1, evaluate=now, eval_interval=1, deterministic=deterministic).run_loop()
    now()
    assert seen == [(False, True, False), (True, True, deterministic), (False, True, False)]


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_one_step_is_the_published_update(rho):
    """AdamW's first step (Kingma & Ba 2015, Alg. 1), at w or at w + rho g / ||g||; EMA of it."""
    model, diffusion = network()
    batch, _ = next(data(0))
    one = draw(
        create_named_schedule_sampler("uniform", diffusion), batch, {}, generator(3, TRAIN, 0)
    )

    def gradient(model):
        terms = diffusion.training_losses(model, one.x_start, one.t, noise=one.noise)
        return torch.autograd.grad(terms["loss"].mean(), list(model.parameters()))

    w = [p.detach().clone() for p in model.parameters()]
    g = gradient(model)
    if rho:
        norm = math.sqrt(sum(float(x.double().square().sum()) for x in g))
        ridge = copy.deepcopy(model)
        with torch.no_grad():
            for p, x in zip(ridge.parameters(), g):
                p += rho * x / norm
        g = gradient(ridge)
    expected = [x - 1e-3 * y / (y.abs() + 1e-8) for x, y in zip(w, g)]
    trained = train(1, optimizer="adam-sam" if rho else "adam", rho=rho)
    moved = [(a - b).abs().mean() for a, b in zip(trained.weights, w)]
    assert min(moved) > 1e-5
    # where g is 0 up to rounding (a bias before a norm) the first step is its sign, so noise
    solid = [y.abs() > 1e-5 for y in g]
    assert torch.cat([mask.flatten() for mask in solid]).float().mean() > 0.8
    for ours, theirs, mask in zip(trained.weights, expected, solid):
        assert torch.allclose(ours[mask], theirs[mask], atol=2e-5)
    ema = [0.9 * a + 0.1 * b for a, b in zip(w, trained.weights)]
    assert close(trained.emas[0.9].weights, ema, atol=1e-7)


def test_three_steps_are_those_of_guided_diffusion(monkeypatch):
    """Golden numbers of the original's network, losses, AdamW and EMA, on one given draw."""
    build.use()
    golden = json.loads((Path(__file__).parents[1] / "golden/train_step.json").read_text())
    flags = script_util.model_and_diffusion_defaults() | golden["kw"]
    model, diffusion = script_util.create_model_and_diffusion(**flags)
    fill(model).train()
    one = Draw(
        torch.cos(0.37 * torch.arange(6144)).view(2, 3, 32, 32),
        torch.tensor([100, 700]),
        torch.sin(1.3 * torch.arange(6144)).view(2, 3, 32, 32),
        torch.ones(2),
        {},
    )
    monkeypatch.setattr(train_util, "draw", lambda *args, **kwargs: one)
    run = TrainLoop(
        model=networks.place(model), diffusion=diffusion, data=None, batch_size=2, microbatch=1,
        lr=1e-3, weight_decay=0.01, ema_rate="0.9", log_interval=9, save_interval=9,
        resume_checkpoint="",
    )  # fmt: skip
    for i, (losses, norm) in enumerate(zip(golden["losses"], golden["grad_norm"])):
        run.run_step(one.x_start, {})
        # AdamW's first step is the sign of the gradient, also where that is 0 up to rounding
        rel = 2e-3 if i else 1e-5
        for key, values in losses.items():
            assert run.history[-1][key].tolist() == pytest.approx(values, rel=rel)
        assert float(run.history[-1]["grad_norm"]) == pytest.approx(norm, rel=rel)
    for name, weights in (("weights", run.weights), ("ema", run.emas[0.9].weights)):
        for key, w in zip(run.names, weights):
            if key in golden[name]:
                assert w.double().sum().item() == pytest.approx(golden[name][key]["sum"], abs=0.02)
                assert w.double().abs().sum().item() == pytest.approx(
                    golden[name][key]["abs"], 1e-4
                )


def test_rho_zero_is_bitwise_adam_and_rho_is_not():
    adam = train(3, dropout=0.3)
    assert equal(adam.weights, train(3, dropout=0.3, optimizer="adam-sam", rho=0.0).weights)
    assert not close(adam.weights, train(3, dropout=0.3, optimizer="adam-sam", rho=0.5).weights)


def gradients(steps, **kwargs):
    """The gradient of each step, flat, and the weights that it was taken from."""
    run = loop(**kwargs)
    found = []
    for _ in range(steps):
        w = [p.detach().clone() for p in run.weights]
        run.run_step(*next(run.data))
        found.append((torch.cat([p.grad.flatten() for p in run.weights]), w))
    return found


def test_sam_now_and_then_is_sam_then_and_adam_else():
    """At steps 1 and 3: each step's gradient is SAM's or Adam's own from the same weights."""
    kinds = []
    for step, (g, w) in enumerate(
        gradients(4, optimizer="adam-sam", rho=0.5, sam_start=1, sam_every=2)
    ):
        same = []
        for optimizer in ("adam", "adam-sam"):
            run = loop(optimizer=optimizer, rho=0.5)
            torch._foreach_copy_([p.data for p in run.weights], w)
            run.step = step
            run.gradient(one_draw(run, step))
            same.append(torch.equal(g, torch.cat([p.grad.flatten() for p in run.weights])))
        kinds.append(same)
    plain, ridge = [True, False], [False, True]
    assert kinds == [plain, ridge, plain, ridge]


def one_draw(run, step):
    batch, _ = next(data(step))
    return draw(run.schedule_sampler, batch, {}, generator(3, TRAIN, step))


def test_sam_climbs_on_a_share_of_the_batch():
    """The ascent is along the gradient of the first images alone, the descent of all of them."""
    model, diffusion = network()
    run = loop(optimizer="adam-sam", rho=0.5, sam_share=0.4)  # 2 of 4
    one = one_draw(run, 0)

    def mean_gradient(model, draws):
        terms = diffusion.training_losses(model, draws.x_start, draws.t, noise=draws.noise)
        return torch.autograd.grad(terms["loss"].mean(), list(model.parameters()))

    g = mean_gradient(model, one.slice(0, 2))
    norm = torch.cat([x.flatten() for x in g]).norm()
    with torch.no_grad():
        for p, x in zip(model.parameters(), g):
            p += 0.5 * x / norm
    expected = mean_gradient(model, one)
    seen, terms = run.gradient(one)
    assert len(seen.t) == len(terms["loss"]) == 2 and torch.equal(seen.t, one.t[:2])
    assert close([p.grad for p in run.weights], expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"sam_share is 0.0; expected .* above 0 and up to 1"):
        loop(sam_share=0.0)


def test_msam_takes_the_gradient_ahead_of_the_momentum():
    """Step 0 is Adam's; step 1's gradient is that at w - rho m / ||m||, m a tenth of step 0's."""
    (g0, _), (g1, w) = gradients(2, optimizer="adam-msam", rho=0.5)
    adam = gradients(2)
    assert torch.equal(g0, adam[0][0]) and not torch.allclose(g1, adam[1][0])
    run = loop()
    direction = g0 / g0.norm()
    with torch.no_grad():
        for p, start, d in zip(run.weights, w, direction.split([p.numel() for p in run.weights])):
            p.copy_(start - 0.5 * d.view(p.shape))
    run.step = 1
    run.gradient(one_draw(run, 1))
    expected = torch.cat([p.grad.flatten() for p in run.weights])
    torch.testing.assert_close(g1, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "adam-sam", "adam-asam"])
def test_microbatches_change_only_rounding(optimizer):
    whole = train(2, optimizer=optimizer, rho=0.2, input_pertub=0.1)
    parts = train(2, optimizer=optimizer, rho=0.2, input_pertub=0.1, microbatch=3)
    assert close(
        [h["grad_norm"] for h in whole.history], [h["grad_norm"] for h in parts.history], rtol=1e-4
    )
    assert close([h["loss"] for h in whole.history], [h["loss"] for h in parts.history], rtol=1e-3)


def test_input_perturbation_zero_draws_nothing():
    a, b = train(2), train(2, input_pertub=0.0)
    assert equal(a.weights, b.weights)
    assert not close(a.weights, train(2, input_pertub=0.2).weights)


RESUMED = {
    "adam": {},
    "dropout": dict(dropout=0.4, ema_rate="0.9,0.99"),
    "sam": dict(optimizer="adam-sam", rho=0.2, dropout=0.4, microbatch=2),
    "cheaper": dict(optimizer="adam-sam", rho=0.2, sam_every=2, sam_start=1, sam_share=0.5),
    "msam": dict(optimizer="adam-msam", rho=0.2, dropout=0.4),
    "asam": dict(optimizer="adam-asam", rho=0.5, input_pertub=0.1),
    "swa": dict(use_swa=True, swa_window=2, lr_anneal_steps=1, swa_start=1),
    "averages": dict(averages="swa,swa window=2 start=1,ema rate=0.5"),
    "loss-aware": dict(schedule_sampler="loss-second-moment"),
    "bf16": dict(dtype="bf16", optimizer="adam-sam", rho=0.2, dropout=0.4),
    "fp16": dict(dtype="fp16", optimizer="adam-sam", rho=0.2),
    "loss": dict(dtype="bf16", optimizer="adam-sam-loss rise=0.05", microbatch=3, dropout=0.4),
    "friendly": dict(optimizer="adam-fsam decay=0.8", rho=0.2, sam_every=2, sam_share=0.5),
    "random": dict(microbatch=3, optimizer="adam-random", rho=0.2, sam_start=2),
    "down": dict(optimizer="adam-sam-down", rho=0.2, base_optimizer="sgd", dropout=0.4),
    "muon": dict(optimizer="adam-msam", rho=0.2, base_optimizer="muon", weight_decay=0.1),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_run_that_was_never_stopped(name, tmp_path):
    folders = {}
    for stops in ((6,), (1, 3, 6)):
        folder = folders[stops] = str(tmp_path / f"{len(stops)}")
        logger.configure(folder, format_strs=[])
        resume = ""
        for end in stops:
            run = loop(**RESUMED[name], end_step=end, resume_checkpoint=resume)
            run.run_loop()
            resume = checkpoint.find_resume_checkpoint(folder)
        assert run.step == 6
    whole, stopped = folders.values()
    kinds = {"model", "opt", "state", "ema"} | ({"swa"} if name == "swa" else set())
    files = [f for f in os.listdir(whole) if f.endswith("000006.pt")]
    assert sum(f.startswith("average_") for f in files) == 3 * (name == "averages")
    assert {k for k in kinds for f in files if f.startswith(k)} == kinds
    for file in files:
        a, b = (checkpoint.load(f"{folder}/{file}") for folder in (whole, stopped))
        assert flat(a) == flat(b), file


def flat(obj):
    """Nested dicts and lists -> comparable lists, tensors by their exact values."""
    if isinstance(obj, dict):
        return {k: flat(v) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [flat(v) for v in obj]
    return obj.tolist() if isinstance(obj, torch.Tensor) else obj


def test_swa_is_the_mean_of_the_weights_at_window_ends():
    run = loop(use_swa=True, swa_window=2, swa_start=1, end_step=7)
    collected = []
    for step in range(1, 8):
        run.run_step(*next(run.data))
        if step in (3, 5, 7):
            collected.append([w.detach().clone() for w in run.weights])
    mean = [torch.stack(ws).mean(0) for ws in zip(*collected)]
    assert run.swa.count == 3 and close(run.swa.weights, mean, atol=1e-7)


def test_swa_from_a_checkpoint_starts_there(tmp_path):
    loop(end_step=3).run_loop()
    path = checkpoint.find_resume_checkpoint(logger.get_dir())
    run = loop(end_step=7, resume_checkpoint=path, use_swa=True, swa_window=4, lr=5e-4)
    assert run.swa.start == 3 and run.step == 3
    run.run_loop()
    assert run.swa.count == 1 and equal(run.swa.weights, run.weights)
    assert run.opt.param_groups[0]["lr"] == 5e-4  # the command line's, not the file's


def test_when_training_ends():
    assert loop(end_step=0).end_step == math.inf
    assert loop(end_step=0, lr_anneal_steps=5).end_step == 5
    assert loop(end_step=0, lr_anneal_steps=1, use_swa=True).end_step == math.inf
    with pytest.raises(ValueError, match="lr falls to 0 at lr_anneal_steps 1, but end_step is 6"):
        loop(lr_anneal_steps=1)


def test_a_diverged_run_stops_and_says_so():
    run = loop(log_interval=1)
    with torch.no_grad():
        run.weights[0].fill_(math.nan)
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        run.run_loop()
