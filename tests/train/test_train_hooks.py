"""What programs written for guided-diffusion replace in training, and what they no longer can."""

import pytest
from training import equal, loop

from flatdiff.store import checkpoint
from flatdiff.train import train_hooks, train_util

pytestmark = pytest.mark.usefixtures("quiet")


def test_files_go_to_the_logs_folder(quiet, tmp_path, monkeypatch):
    assert train_hooks.get_blob_logdir() == str(quiet)
    monkeypatch.setattr(train_util, "get_blob_logdir", lambda: str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    loop(end_step=1).run_loop()
    assert (tmp_path / "elsewhere/model000001.pt").exists() and not list(quiet.glob("*.pt"))


def test_a_checkpoint_that_a_program_finds_is_gone_on_from(quiet, monkeypatch):
    first = loop(end_step=2)
    first.run_loop()
    path = str(quiet / "model000002.pt")
    monkeypatch.setattr(train_util, "find_resume_checkpoint", lambda: path)
    assert train_hooks.find_resume_checkpoint() is None
    run = loop(resume_checkpoint="nowhere/model000007.pt")
    assert run.step == 2 and equal(run.weights, first.weights)


def test_an_ema_is_looked_for_beside_its_model(tmp_path):
    path = tmp_path / checkpoint.ema_name(0.9, 7)
    model = str(tmp_path / "model000007.pt")
    assert train_hooks.find_ema_checkpoint(model, 7, 0.9) is None
    path.touch()
    assert train_hooks.find_ema_checkpoint(model, 7, 0.9) == str(path)
    assert train_hooks.find_ema_checkpoint(None, 7, 0.9) is None


def test_an_average_that_a_program_finds_is_gone_on_from(quiet, tmp_path, monkeypatch):
    first = loop(end_step=2)
    first.run_loop()
    path = (quiet / checkpoint.ema_name(0.9, 2)).rename(tmp_path / "elsewhere.pt")
    monkeypatch.setattr(train_util, "find_ema_checkpoint", lambda *_: str(path))
    run = loop(resume_checkpoint=str(quiet / "model000002.pt"))
    assert equal(run.emas[0.9].weights, first.emas[0.9].weights)


def test_a_method_that_training_does_not_call_cannot_be_overridden():
    with pytest.raises(TypeError, match=r"Mine._anneal_lr .* learning_rate"):
        type("Mine", (train_util.TrainLoop,), {"_anneal_lr": lambda self: None})
