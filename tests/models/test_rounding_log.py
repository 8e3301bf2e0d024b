"""What users are told of rounded moves: in training's log, and by flatness; fp16's overflows."""

import contextlib
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import training
from torch import nn

from flatdiff.models.rounding_log import ClimbLog, warn_of_small_moves
from flatdiff.weights import perturb
from flatdiff.world import logger
from flatdiff.world.arithmetic import arithmetic

SAM = ("adam-sam", "adam-asam", "adam-msam")


@pytest.fixture
def said(tmp_path, monkeypatch):
    said = []
    logger.configure(str(tmp_path), format_strs=["json"])
    monkeypatch.setattr(logger, "warn", said.append)
    return said


def loop(**flags):
    run = training.loop(**{"ema_rate": "0.01", "log_interval": 3} | flags)
    run.data = itertools.repeat(next(run.data))
    return run


def rows(run, monkeypatch):
    """The tables of a run, as dicts."""
    found, dump = [], logger.dumpkvs

    def dumpkvs(reduce):
        found.append(dump(reduce))
        return found[-1]

    monkeypatch.setattr(logger, "dumpkvs", dumpkvs)
    run.run_loop()
    return found


def test_training_says_what_is_seen_of_a_climb(said, monkeypatch):
    run = loop(optimizer="adam-sam", rho=0.003, dtype="bf16")
    for row in rows(run, monkeypatch):
        length, cosine = row["sam_seen_length"], row["sam_seen_cosine"]
        assert 0 < cosine < 0.5
        assert length * cosine == pytest.approx(1, rel=0.1)  # rounding hits both ways alike
        assert "sam_tf32_cosine" not in row  # which is of fp32
    (warning,) = said
    assert "in bf16 rounding adds noise to SAM's climb of rho 0.003" in warning
    rho = float(warning.split("--rho ")[1].split()[0])
    monkeypatch.undo()
    said.clear()
    run = loop(optimizer="adam-sam", rho=1.06 * rho, dtype="bf16", end_step=1)
    row, *_ = rows(run, monkeypatch)
    assert row["sam_seen_cosine"] >= 0.9 and not said
    run = loop(optimizer="adam-sam", rho=0.9 * rho, dtype="bf16", end_step=1)
    assert rows(run, monkeypatch)[0]["sam_seen_cosine"] < 0.9


def test_training_in_fp32_is_exact_and_says_what_tf32_would_see(said, monkeypatch):
    for row in rows(loop(optimizer="adam-sam", rho=0.003), monkeypatch):
        assert row["sam_seen_length"] == row["sam_seen_cosine"] == 1
        assert 0.5 < row["sam_tf32_cosine"] < 0.9999
    assert not said
    assert "sam_seen_cosine" not in rows(loop(optimizer="adam", end_step=1), monkeypatch)[-1]


def test_convolutions_of_tf32_are_warned_of_where_they_are(said):
    model = nn.Conv2d(1, 1, 3)
    log, exact = (ClimbLog(model, "fp32", torch.device("cuda"), 0.1) for _ in range(2))
    start, moved = [torch.ones(1, 1, 3, 3), torch.zeros(1)], list(model.parameters())
    with torch.no_grad():
        model.weight.fill_(1 + 2.0**-13)
        model.bias.zero_()
    with torch.backends.cudnn.flags(allow_tf32=False):
        exact(start, moved)
    assert not said
    with torch.backends.cudnn.flags(allow_tf32=True):
        log(start, moved)
    assert "in tf32" in said[0] and "NVIDIA_TF32_OVERRIDE=0" in said[0]
    assert logger.getkvs()["sam_seen_cosine"] == 0


@pytest.mark.parametrize("tf32", [False, True])
def test_products_of_tf32_are_warned_of_where_training_allows_them(said, tf32):
    """torch's own setting leaves linear layers in fp32; a training's does not."""
    model = nn.Linear(3, 1, bias=False)
    nn.init.constant_(model.weight, 1 + 2.0**-13)
    log = ClimbLog(model, "fp32", torch.device("cuda"), 0.1)
    with arithmetic(tf32=True) if tf32 else contextlib.nullcontext():
        log([torch.ones(1, 3)], list(model.parameters()))
    assert bool(said) == tf32
    assert logger.getkvs()["sam_seen_cosine"] == 1 - tf32


def test_climbs_are_looked_at_now_and_then(said):
    model = nn.Linear(1, 1)
    log = ClimbLog(model, "bf16", torch.device("cpu"), 0.1)
    with torch.no_grad():
        model.weight.fill_(1 + 2.0**-6)
    start, moved, seen = [torch.ones(1, 1)], [model.weight], []
    for climb in range(1, 12):
        log.due = log.due or climb == 7
        bad = [w * math.nan for w in start]  # an overflow: the next one is looked at
        log(bad if climb == 7 else start, moved)
        values = logger.get_current().values
        seen += [climb] if values else []
        values.clear()
    assert seen == [1, 2, 4, 8] and not log.due and not said


def test_a_move_that_bf16_makes_another_is_warned_of(said):
    """w uniform in [1, 2) in steps of 2^-7: Gaussian noise of less than that, and of more."""
    model = nn.Linear(200, 200)
    nn.init.uniform_(model.weight, 1, 2)
    weights = list(model.parameters())
    subject = SimpleNamespace(
        model=model, weights=weights, spare=[torch.empty_like(w) for w in weights]
    )
    before = model.weight.detach().clone()
    moves = [(size, perturb.gaussian(size, 0, 0)) for size in (1e-3, 2e-2)]
    warn_of_small_moves(subject, "fp32", "sigma", moves)
    assert not said
    warn_of_small_moves(subject, "bf16", "sigma", moves)
    (warning,) = said
    assert "in bf16 the network sees moves of sigma 0.001 as others" in warning
    # jumps of a step h with chance E|z| sigma / h: squares are h E|z| / sigma times too large
    times = float(warning.split("about ")[1].split()[0])
    assert times == pytest.approx(2.0**-7 * math.sqrt(2 / math.pi) / 1e-3, rel=0.1)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("optimizer", SAM)
@pytest.mark.parametrize("passes", [(1,), (2,), (1, 2)])
def test_a_step_whose_climb_or_ridge_overflows_in_fp16_is_skipped(said, optimizer, passes):
    run = loop(optimizer=optimizer, dtype="fp16", rho=0.1)
    run.run_step(*next(run.data))
    before = [w.detach().clone() for w in [*run.weights, *run.emas[0.01].weights]]
    states = [v.clone() for state in run.opt.state.values() for v in state.values()]
    lg, plain, count = run.scale.lg, run.forward_backward, itertools.count(1)

    def overflowing(*args, **kwargs):
        terms = plain(*args, **kwargs)
        if next(count) in passes or optimizer == "adam-msam":
            run.weights[3].grad[0] = math.inf
        return terms

    run.forward_backward = overflowing
    run.run_step(*next(run.data))
    now = [*run.weights, *run.emas[0.01].weights]
    assert all(map(torch.equal, now, before))
    after = [v for state in run.opt.state.values() for v in state.values()]
    assert all(map(torch.equal, after, states))
    assert run.scale.lg == lg - 1


def test_a_gradient_of_zero_climbs_nowhere_and_says_nothing(said, monkeypatch):
    run = loop(optimizer="adam-sam", rho=0.1, end_step=1)
    plain = run.forward_backward

    def zero(*args, **kwargs):
        terms = plain(*args, **kwargs)
        torch._foreach_zero_([w.grad for w in run.weights])
        return terms

    run.forward_backward = zero
    before = [w.detach().clone() for w in run.weights]
    (row,) = rows(run, monkeypatch)
    assert all(map(torch.equal, run.weights, before))
    assert row["grad_norm"] == 0 and "sam_seen_cosine" not in row and not said


def test_a_climb_that_is_not_finite_stops_training_in_fp32(said):
    run = loop(optimizer="adam-sam", rho=0.1, log_interval=1)
    plain, count = run.forward_backward, itertools.count(1)

    def overflowing(*args, **kwargs):
        terms = plain(*args, **kwargs)
        if next(count) == 1:
            run.weights[3].grad[0] = math.inf
        return terms

    run.forward_backward = overflowing
    with pytest.raises(FloatingPointError, match="training has diverged"):
        run.run_loop()
