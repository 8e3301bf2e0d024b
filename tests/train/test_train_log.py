"""What training logs: means of its losses, their rises at the ridge by autograd; time, memory."""

import csv
import datetime
import resource

import pytest
import torch
from training import BATCH, loop, train

from flatdiff.train import train_log, train_util
from flatdiff.world import logger


def test_logged_means_and_quartiles(monkeypatch):
    run = train(3)
    t = torch.cat([h["t"] for h in run.history])
    loss = torch.cat([h["loss"] for h in run.history])
    logged = {}
    monkeypatch.setattr(
        logger, "dumpkvs", lambda reduce: logged.update(logger.getkvs()) or {"loss": 0.0}
    )
    seen = {}
    monkeypatch.setattr(logger, "logkv_mean", lambda k, v, n: seen.update({k: (float(v), int(n))}))
    run.log_step(None)
    assert seen["loss"] == (pytest.approx(loss.mean().item()), 12)
    for q in range(4):
        part = loss[(t >= 10 * q) & (t < 10 * (q + 1))]
        assert seen[f"loss_q{q}"][1] == len(part)
        if len(part):
            assert seen[f"loss_q{q}"][0] == pytest.approx(part.mean().item())


@pytest.mark.parametrize(("optimizer", "share"), [("adam-sam", 0.5), ("adam-sam-down", 1.0)])
def test_sharpness_is_the_rise_of_the_loss_on_the_way_to_the_ridge(optimizer, share, monkeypatch):
    """SAM's ball written out with autograd, on the images that it climbs on."""
    rho, seen = 0.3, []
    draws = train_util.draw
    monkeypatch.setattr(train_util, "draw", lambda *a, **k: seen.append(draws(*a, **k)) or seen[0])
    run = loop(optimizer=optimizer, rho=rho, sam_share=share, schedule_sampler="loss-second-moment")
    before = [w.detach().clone() for w in run.weights]
    run.run_step(*next(run.data))
    with torch.no_grad():
        for w, start in zip(run.weights, before):
            w.copy_(start)
    part = seen[0].slice(0, int(BATCH * share))

    def at_w():
        return (part.losses(run.diffusion, run.model)["loss"] * part.weight).mean()

    loss = at_w()
    grads = torch.autograd.grad(loss, run.weights)
    length = torch.cat([g.flatten() for g in grads]).norm()
    sign = -1 if optimizer == "adam-sam-down" else 1
    with torch.no_grad():
        for w, g in zip(run.weights, grads):
            w += sign * rho * g / length
        expected = float(at_w() - loss)
    assert abs(expected) > 0.01 and sign * expected > 0
    logged = logged_by(run, monkeypatch)
    assert logged["sam_sharpness"] == pytest.approx(expected, rel=1e-4)


def logged_by(run, monkeypatch):
    """The next line of the log of a run."""
    logger.configure("nowhere", [], rank=1)
    monkeypatch.setattr(logger.get_current(), "rank", 0)
    rows = []
    monkeypatch.setattr(logger, "dumpkvs", lambda _: rows.append(logger.getkvs()) or rows[0])
    run.log_step(2.0)
    return rows[0]


def test_what_is_no_climb_has_no_sharpness_and_all_say_what_they_take(monkeypatch):
    for flags in ({}, {"optimizer": "adam-msam"}, {"optimizer": "adam-sam", "sam_start": 9}):
        row = logged_by(train(1, **flags), monkeypatch)
        assert "sam_sharpness" not in row and row["images/s"] == 2.0 * BATCH
    begun = datetime.datetime.fromisoformat(row["time"])
    assert abs(datetime.datetime.now() - begun) < datetime.timedelta(seconds=100)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB
    assert row["memory_gib"] == pytest.approx(own, abs=0.1) and 0 <= row["seconds"] < 100


def test_a_step_that_overflowed_is_left_out_of_the_sharpness():
    logger.configure("nowhere", [], rank=1)
    train_log.log_rises([torch.tensor([1.0, 2.0]), torch.tensor([torch.nan, torch.inf])])
    assert logger.getkvs()["sam_sharpness"] == 1.5
    logger.dumpkvs()
    train_log.log_rises([torch.tensor([torch.nan])])
    assert "sam_sharpness" not in logger.getkvs()


def test_a_run_that_goes_on_adds_columns_that_its_table_did_not_have(tmp_path):
    logger.configure(str(tmp_path), ["csv"])
    loop(end_step=2, log_interval=1, save_interval=2).run_loop()
    logger.reset()
    path = tmp_path / "progress.csv"
    new = ("time", "seconds", "images/s", "memory_gib")
    old = [{k: v for k, v in row.items() if k not in new} for row in rows(path)]
    with open(path, "w", newline="") as file:  # as versions wrote it that did not have them
        writer = csv.DictWriter(file, list(old[0]))
        writer.writeheader()
        writer.writerows(old)
    logger.configure(str(tmp_path), ["csv"], append=True)
    logger.truncate(2)
    how = {"resume_checkpoint": str(tmp_path / "model000002.pt"), "optimizer": "adam-sam"}
    loop(end_step=4, log_interval=1, **how).run_loop()
    table = rows(path)
    assert [row["step"] for row in table] == ["1", "2", "3", "4"]
    assert [row["loss"] for row in table[:2]] == [row["loss"] for row in old]
    assert list(table[0])[: len(old[0])] == list(old[0])
    for name in (*new, "sam_sharpness"):
        assert [bool(row[name]) for row in table] == [False, False, True, True]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
