"""Files beside the resumed one that hold something else: one sentence with the file's name."""

from types import SimpleNamespace

import pytest
import torch
from training import equal, loop

from flatdiff.flags import config
from flatdiff.store import checkpoint
from flatdiff.train import starting
from flatdiff.world import logger

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
