"""Files beside the resumed one that hold something else: one sentence with the file's name; and a
run that was asked to end."""

import errno
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from training import equal, loop

from flatdiff.flags import config
from flatdiff.store import checkpoint
from flatdiff.train import starting, train_state
from flatdiff.world import lifeline, logger, stopping

pytestmark = pytest.mark.usefixtures("quiet")


def without_hashes(state):
    """Make a state file one of the time before there were hashes."""
    rest = checkpoint.load(state)
    checkpoint.save({k: v for k, v in rest.items() if k not in ("files", "run")}, state)


def resumed(change, name):
    """A run that goes on from step 2 of an older one, without hashes, one file of which was
    changed."""
    loop(end_step=2, use_swa=True, swa_window=1).run_loop()
    without_hashes(f"{logger.get_dir()}/state000002.pt")
    path = f"{logger.get_dir()}/{name}"
    checkpoint.save(change(checkpoint.load(path)), path)
    model = f"{logger.get_dir()}/model000002.pt"
    return loop(resume_checkpoint=model, use_swa=True, swa_window=1), path


def test_an_average_saved_under_ddp_is_taken():
    run, path = resumed(lambda ema: {f"module.{k}": v for k, v in ema.items()}, "ema_0.9_000002.pt")
    saved = checkpoint.load(path)
    assert equal(run.emas[0.9].weights, [saved[f"module.{name}"] for name in run.names])


CHANGES = {
    "ema_0.9_000002.pt": {
        "a list": lambda ema: list(ema.values()),
        "a key less": lambda ema: dict(list(ema.items())[1:]),
        "a shape": lambda ema: ema | {"time_embed.0.bias": torch.zeros(7)},
    },
    "opt000002.pt": {
        "no state": lambda opt: {"param_groups": opt["param_groups"]},
        "no groups": lambda opt: opt | {"param_groups": None},
        "no moment": lambda opt: opt | {"state": {0: {"step": torch.tensor(2.0)}}},
        "an index": lambda opt: opt | {"state": {10**9: opt["state"][0]}},
        "a name": lambda opt: opt | {"state": {"0": opt["state"][0]}},
        "a text": lambda opt: opt | {"state": {0: opt["state"][0] | {"exp_avg": "0"}}},
    },
    "state000002.pt": {
        "a list": lambda rest: list(rest.values()),
        "no seed": lambda rest: {"step": 2, "global_batch": 4},
        "a text": lambda rest: rest | {"seed": "0"},
        "of another step": lambda rest: rest | {"step": 1},
        "a run of numbers": lambda rest: rest | {"run": 3},
        "snapshots of text": lambda rest: rest | {"snapshots": ["1"]},
        "swa a list": lambda rest: rest | {"swa": [1, 2]},
        "swa without count": lambda rest: rest | {"swa": {"start": 0}},
        "swa below 0": lambda rest: rest | {"swa": {"start": 0, "count": -1}},
    },
}


@pytest.mark.parametrize(
    ("name", "change"), [(name, what) for name, changes in CHANGES.items() for what in changes]
)
def test_what_does_not_fit_names_its_file(name, change):
    with pytest.raises(ValueError, match=name):
        resumed(CHANGES[name][change], name)


@pytest.mark.parametrize("save", [1, 3])
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_is_told_with_what_is_whole_and_costs_no_bit(
    quiet, monkeypatch, call, save, tmp_path
):
    """It takes no more at the third file of a save, or before that, and later it does."""
    calls, real = [], getattr(os, call)

    def full(*args):
        calls.append(args)
        if len(calls) > 2 + (save - 1) * 4 * (1 + (call == "fsync")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(os, call, full)
        loop(end_step=4, save_interval=1).run_loop()
    text, code = lifeline.explain(caught.value)
    whole = "step 2 is whole" if save == 3 else "no step was saved in it"
    assert f"no space in {quiet} ({quiet}/" in text and whole in text and code == 1
    assert checkpoint.complete_steps(str(quiet)) == [1, 2][: save - 1]
    path = checkpoint.find_resume_checkpoint(str(quiet)) or ""
    loop(end_step=4, resume_checkpoint=path).run_loop()
    logger.configure(str(tmp_path / "whole"), format_strs=[])
    loop(end_step=4).run_loop()
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(files) == 4 and all((quiet / n).read_bytes() == files[n] for n in files)


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EDQUOT, "no space in .*quota"), (errno.EROFS, "read-only"), (errno.EIO, "fails")],
)
def test_other_refusals_of_a_disk_are_told(quiet, monkeypatch, number, told):
    run = loop(end_step=1)

    def refuse(*_):
        raise OSError(number, os.strerror(number), f"{quiet}/model000001.pt")

    monkeypatch.setattr(train_state, "save", refuse)
    with pytest.raises(OSError, match=told) as caught:
        run.run_loop()
    assert caught.value.errno == number
    monkeypatch.setattr(checkpoint, "exists", lambda path: path != str(quiet))
    with pytest.raises(OSError, match=f"the folder {quiet} is gone"):
        loop(end_step=1).run_loop()


def test_an_error_of_another_folder_stays_what_it_is(quiet, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error", "/data/0.png")

    monkeypatch.setattr(train_state, "save", refuse)
    with pytest.raises(OSError, match="^.Errno 5. Input/output error: '/data/0.png'$"):
        loop(end_step=1).run_loop()


def test_lost_snapshots_are_warned_of(quiet, monkeypatch):
    said = []
    loop(end_step=3, posthoc_ema=1).run_loop()
    path = f"{quiet}/model000003.pt"
    monkeypatch.setattr(logger, "warn", said.append)
    assert loop(end_step=4, posthoc_ema=1, resume_checkpoint=path).snapshots == [1, 2, 3]
    assert said == []
    (quiet / "snapshot000002.pt").unlink()
    run = loop(end_step=4, posthoc_ema=1, resume_checkpoint=path)
    assert len(said) == 1 and "snapshot000002.pt is missing" in said[0]
    run.run_loop()
    assert checkpoint.load(f"{quiet}/state000004.pt")["snapshots"] == [1, 2, 3, 4]


@pytest.mark.parametrize(("end", "warned"), [(5, True), (6, False)])
def test_an_average_that_no_window_reaches_is_warned_of(end, warned, monkeypatch):
    said = []
    monkeypatch.setattr(logger, "warn", said.append)
    groups = {"train": config.TrainFlags, "data": config.DataFlags}
    groups |= {"diffusion": config.DiffusionFlags}
    flags = config.parse("", ["--use_swa", "True", "--swa_window", "4"], **groups)
    run = loop(use_swa=True, swa_window=4, swa_start=2, end_step=end)
    starting.describe(flags, run, SimpleNamespace(image_size=8, num_images=4))
    assert bool(said) == warned


def finals(folder):
    """What a run left at its last step, by name, but for the time that it took."""
    names = sorted(name for name in os.listdir(folder) if name.endswith("000009.pt"))
    return {name: checkpoint.load(f"{folder}/{name}") for name in names}


def alike(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


@pytest.mark.parametrize(
    "flags",
    [
        {"dropout": 0.2},
        {"optimizer": "adam-msam", "rho": 0.1, "schedule_sampler": "loss-second-moment"},
        {"optimizer": "adam-sam", "rho": 0.1, "use_swa": True, "swa_window": 3, "posthoc_ema": 3},
    ],
    ids=["adam", "msam", "sam, swa, post-hoc ema"],
)
def test_a_run_that_is_asked_to_end_goes_on_to_the_same_bits(tmp_path, capsys, flags):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    logger.configure(str(whole), format_strs=[])
    loop(end_step=9, **flags).run_loop()
    logger.configure(str(stopped), format_strs=["stdout"])
    run = loop(end_step=9, resume="auto", **flags)
    step = run.run_step

    def preempted(*batch):
        step(*batch)
        if run.step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)

    run.run_step = preempted
    with stopping.listening(lambda *_: None):
        with pytest.raises(stopping.Stopped) as left:
            run.run_loop()
        stopping.farewell()
    assert left.value.code == 75 and left.value.together
    (saved,) = {int(name[5:11]) for name in os.listdir(stopped) if name.startswith("model")}
    assert saved in (4, 5)
    path = stopped / f"model{saved:06}.pt"
    told = f"stopped by SIGUSR1: saved {path}; the same command goes on from step {saved}\n"
    assert capsys.readouterr().out.endswith(told)
    loop(end_step=9, resume_checkpoint=str(path), **flags).run_loop()
    assert len(finals(whole)) > 3 and alike(finals(whole), finals(stopped))


def test_an_evaluation_that_would_hold_up_the_save_is_left_out(tmp_path):
    logger.configure(str(tmp_path), format_strs=[])
    run, seen = loop(end_step=9, eval_interval=1, evaluate=lambda run: seen.append(run.step)), []
    step = run.run_step

    def preempted(*batch):
        step(*batch)
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run.run_step = preempted
    with stopping.listening(lambda *_: None), pytest.raises(stopping.Stopped):
        run.run_loop()
    assert seen in ([1], [1, 2]) and checkpoint.complete_steps(str(tmp_path)) == [len(seen) + 1]
