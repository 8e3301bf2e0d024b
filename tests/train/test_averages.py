"""Snapshots of a run: when, of what, and that a killed run leaves those of an uninterrupted one."""

from types import SimpleNamespace

import pytest
import torch
from training import close, equal, loop, train

from flatdiff.measure import averages as made_of_runs
from flatdiff.store import checkpoint, snapshots
from flatdiff.train import averages
from flatdiff.weights import posthoc
from flatdiff.weights.averaging import Power
from flatdiff.world import logger

pytestmark = pytest.mark.usefixtures("quiet")
HOW = {"posthoc_ema": 2, "save_interval": 3, "end_step": 7}


def weights(snapshot):
    return [w for track in snapshot.load() for w in track.values()]


def test_snapshots_are_of_two_power_emas_at_steps_and_at_the_end(tmp_path):
    run = loop(**HOW, averages="power sigma_rel=0.2")
    run.run_loop()
    found = snapshots.snapshots_of(logger.get_dir())
    assert [s.step for s in found] == [2, 4, 6, 7]
    assert [s.tracks for s in found][1] == tuple((s, 4) for s in posthoc.TRACKS)
    last = [run.averages[f"average_power_sigma_rel={s:g}"].weights for s in posthoc.TRACKS]
    assert equal(weights(found[-1]), [w for track in last for w in track])


def test_none_are_taken_unless_asked_for():
    run = loop(end_step=2)
    run.run_loop()
    assert not [n for n in checkpoint.names_in(logger.get_dir()) if "snapshot" in n]
    assert list(run.averages) == ["ema_0.9"]


def test_a_killed_run_goes_on_to_the_same_snapshots(tmp_path):
    loop(**HOW).run_loop()
    whole = snapshots.snapshots_of(logger.get_dir())
    kept = [weights(s) for s in whole]
    logger.configure(str(tmp_path / "killed"), format_strs=[])
    killed = loop(**HOW | {"end_step": 99})
    killed.end_step = 99
    while killed.step < 5:  # its last whole step on disk is 3; a snapshot of step 4 is later
        killed.run_step(*next(killed.data))
        if killed.step % 2 == 0:
            averages.snapshot(killed, logger.get_dir())
        if killed.step == 3:
            killed.save()
    loop(**HOW, resume_checkpoint=f"{logger.get_dir()}/model000003.pt").run_loop()
    again = snapshots.snapshots_of(logger.get_dir())
    assert [s[1:] for s in again] == [s[1:] for s in whole]
    assert all(equal(weights(s), w) for s, w in zip(again, kept))


def test_after_a_stretch_without_them_a_run_has_new_ones(quiet):
    """What they make of it is what an average that began with them is."""
    loop(end_step=8, posthoc_ema=2).run_loop()
    loop(end_step=12, resume_checkpoint=f"{quiet}/model000008.pt").run_loop()
    assert "snapshots" not in checkpoint.load(f"{quiet}/state000012.pt")
    last = loop(end_step=20, posthoc_ema=2, resume_checkpoint=f"{quiet}/model000012.pt")
    online = Power(last.weights, 0.1)
    while last.step < 20:
        last.run_step(*next(last.data))
        online.update(last.weights)
        if last.step % 2 == 0:
            averages.snapshot(last, str(quiet))
    last.save()
    assert last.snapshots == [14, 16, 18, 20]
    assert snapshots.steps_in(str(quiet)) == [*range(2, 9, 2), *range(14, 21, 2)]
    checkpoint.save_json({"diffusion": {}}, f"{quiet}/config.json")
    flags = SimpleNamespace(model_path=str(quiet), lengths="0.1", rates="", kept="", step=0)
    ((run, made),) = made_of_runs.runs_of(flags)
    assert ([s.step for s in run.snapshots], run.count) == (last.snapshots, 8)
    made_of_runs.write(made)
    assert close(checkpoint.load(made[1].path).values(), online.weights, atol=1e-6)


def test_snapshots_of_a_stretch_that_was_given_up_are_not_used(quiet):
    first = loop(end_step=99, posthoc_ema=2)
    while first.step < 14:
        first.run_step(*next(first.data))
        if first.step % 2 == 0:
            averages.snapshot(first, str(quiet))
        if first.step == 10:
            first.save()
    how = {"posthoc_ema": 5, "lr": 1e-4, "resume_checkpoint": f"{quiet}/model000010.pt"}
    loop(end_step=20, **how).run_loop()
    checkpoint.save_json({"diffusion": {}}, f"{quiet}/config.json")
    flags = SimpleNamespace(model_path=str(quiet), lengths="0.1", rates="", kept="", step=0)
    ((run, _),) = made_of_runs.runs_of(flags)
    assert [s.step for s in run.snapshots] == [2, 4, 6, 8, 10, 15, 20]
    assert {12, 14} < {*snapshots.steps_in(str(quiet))}


def test_two_runs_are_told_from_each_other(tmp_path):
    runs = [train(2, posthoc_ema=1, rho=rho, optimizer="adam-sam") for rho in (0.1, 0.2)]
    for i, run in enumerate(runs):
        run.step += i
        averages.snapshot(run, str(tmp_path))
    with pytest.raises(ValueError, match="two trainings"):
        snapshots.snapshots_of(str(tmp_path))


def test_an_average_made_afterwards_is_that_of_the_run():
    run = train(0, posthoc_ema=2, averages="power sigma_rel=0.15")
    for _ in range(24):
        run.run_step(*next(run.data))
        if run.step % 2 == 0:
            averages.snapshot(run, logger.get_dir())
    found = snapshots.snapshots_of(logger.get_dir())
    known = [(posthoc.power(*track), track.count) for s in found for track in s.tracks]
    shares = posthoc.fit(known, posthoc.power(0.15, 24), 24).shares
    each = (w for s in found for w in s.load())
    made = posthoc.combined(zip(shares, each))
    online = run.averages["average_power_sigma_rel=0.15"].weights
    missed = torch.cat([(a - b).flatten() for a, b in zip(made.values(), online)]).norm()
    assert missed / torch.cat([w.flatten() for w in online]).norm() < 1e-3


def test_how_much_disk_they_take():
    run = loop(**HOW)
    size = 2 * 4 * sum(w.numel() for w in run.weights) / 1e6
    assert averages.room(run) == (
        f"snapshots every 2 steps, {size:.4g} MB each, {4 * size:.4g} MB in all"
    )
    averages.snapshot(run, logger.get_dir())
    path = f"{logger.get_dir()}/{snapshots.name(0)}"
    with open(path, "rb") as file:
        assert len(file.read()) / 1e6 == pytest.approx(size, rel=0.5)
