"""What a training begins from, and that it writes over no file but its own."""

import csv
import os

import pytest
import torch

from flatdiff.store import checkpoint
from flatdiff.train import train_state


def files_in(folder):
    """Name -> bytes and time, of all but the log's text."""
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and f.name != "log.txt"]
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


@pytest.fixture
def theirs(train, tmp_path):
    """guided-diffusion's folder: its file 1 holds two updates, and there is no state."""
    folder = tmp_path / "theirs"
    train(tmp_path / "ours")
    folder.mkdir()
    for name in ("model{}.pt", "opt{}.pt", "ema_0.9_{}.pt"):
        os.rename(tmp_path / "ours" / name.format("000002"), folder / name.format("000001"))
    (folder / "progress.csv").write_text("step,loss\n0,1.0\n2,0.5\n")
    return folder


def test_guided_diffusions_files_are_gone_on_from(train, theirs):
    before = files_in(theirs)
    loop = train(theirs, "--resume", "auto", end_step=4)
    after = files_in(theirs)
    weights = [n for n in before if n.endswith(".pt")]
    assert len(weights) == 3 and all(after[n] == before[n] for n in weights)
    assert loop.resume_step == 2 and checkpoint.complete_steps(str(theirs)) == [3, 4]
    rows = (theirs / "progress.csv").read_text()
    assert "0,1.0" in rows and "2,0.5" in rows
    assert train(theirs, "--resume", "auto", end_step=5).resume_step == 4  # its own by now


@pytest.mark.parametrize(
    "damage, more",
    [
        ([], []),
        ([], ["--resume_checkpoint", "{ours}/model000001.pt"]),
        (["model000001.pt"], []),
        (["model000001.pt"], ["--resume", "auto"]),
        (["model000001.pt", "opt000001.pt", "ema_0.9_000001.pt"], []),
    ],
)
def test_else_they_are_left_alone(train, theirs, tmp_path, damage, more):
    for name in damage:
        os.remove(theirs / name)
    before = files_in(theirs)
    with pytest.raises(ValueError, match="already holds a run .*another --log_dir"):
        train(theirs, *(m.format(ours=tmp_path / "ours") for m in more))
    assert files_in(theirs) == before


@pytest.mark.parametrize("more", [[], ["--resume", "auto"]])
def test_another_programs_config_is_left_alone(train, tmp_path, more):
    path = tmp_path / "x" / "config.json"
    path.parent.mkdir()
    path.write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="config.json of another program"):
        train(path.parent, *more)
    assert path.read_text() == '{"_class_name": "UNet2DModel"}'


def test_a_wrong_network_leaves_nothing_behind(train, theirs):
    before = files_in(theirs)
    with pytest.raises(ValueError, match="does not fit this network"):
        train(theirs, "--resume", "auto", "--num_channels", "64")
    assert files_in(theirs) == before
    assert train(theirs, "--resume", "auto", end_step=3).step == 3


def test_a_run_killed_in_its_first_save_begins_again(train, tmp_path):
    train(tmp_path / "whole", end_step=2)
    train(tmp_path / "killed", end_step=1)
    os.remove(tmp_path / "killed" / "state000001.pt")
    with pytest.raises(ValueError, match="Give --resume auto to go on"):
        train(tmp_path / "killed")
    train(tmp_path / "killed", "--resume", "auto")
    a, b = (checkpoint.load(str(tmp_path / f / "model000002.pt")) for f in ("whole", "killed"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_their_average_is_gone_on_from(train, theirs):
    loop = train(theirs, "--resume", "auto", end_step=2)
    saved = checkpoint.load(str(theirs / "ema_0.9_000001.pt"))
    assert all(torch.equal(w, saved[n]) for n, w in zip(loop.names, loop.emas[0.9].weights))


def test_the_first_window_after_their_file_is_whole(train, theirs):
    """Their file 1 holds two updates: windows of three end at 5 and 8, as those that start at 2."""
    shown = []
    loop = train(theirs, *"--resume auto --use_swa True --swa_window 3".split(), end_step=2)
    loop.end_step, update = 9, loop.swa.update
    loop.swa.update = lambda weights: (shown.append(loop.step + 1), update(weights))
    loop.run_loop()
    assert loop.swa.start == 2 and shown == [5, 8]


# Steps that are not whole


def steps_in(folder):
    with open(folder / "progress.csv", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_damaged_newest_step_costs_the_steps_since_the_one_before(train, tmp_path, capsys):
    """The tables forget them, and the run ends with the bits of one that was never harmed."""
    folder, often = tmp_path / "run", ["--log_interval", "1"]
    for each in (tmp_path / "whole", folder):
        train(each, *often, end_step=3)
    (folder / "ema_0.9_000003.pt").unlink()
    train(folder, *often, "--resume", "auto", end_step=4)
    said = capsys.readouterr().out
    assert f"warning: step 3 is not whole: {folder}/ema_0.9_000003.pt is missing" in said
    assert f"going on from {folder}/model000002.pt" in said
    train(tmp_path / "whole", *often, "--resume", "auto", end_step=4)
    assert steps_in(folder) == steps_in(tmp_path / "whole") == [1, 2, 3, 4]
    for name in (path.name for path in (tmp_path / "whole").glob("*.pt")):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert len(list(folder.glob("*000003.pt.damaged"))) == 3  # and it may be looked at


def test_a_damaged_newest_step_does_not_outlive_an_older_whole_one(train, tmp_path):
    folder = tmp_path / "run"
    train(folder, "--save_interval", "2", end_step=4)
    (folder / "opt000004.pt").write_bytes(b"")
    train(folder, *"--resume auto --save_interval 1 --keep_last 1".split(), end_step=3)
    assert checkpoint.complete_steps(str(folder)) == [2, 3]


@pytest.mark.parametrize("name", ["model000002.pt", "ema_0.9_000002.pt", "opt000002.pt"])
def test_a_chosen_step_that_is_not_whole_is_refused(train, tmp_path, name):
    train(tmp_path / "one")
    train(tmp_path / "other", "--seed", "1")
    (tmp_path / "one" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ValueError, match=f"step 2 is not whole: .*{name} is not what was saved"):
        train(tmp_path / "x", "--resume_checkpoint", f"{tmp_path}/one/model000002.pt", end_step=3)


def test_a_state_of_another_step_is_refused(train, tmp_path):
    folder = tmp_path / "run"
    train(folder)
    os.replace(folder / "state000001.pt", folder / "state000002.pt")
    with pytest.raises(ValueError, match="state000002.pt.* the state of step 1"):
        train(tmp_path / "x", "--resume_checkpoint", f"{folder}/model000002.pt", end_step=3)


# Numbers that are none


def poison(loop, where):
    tensors = {
        "model": loop.weights,
        "ema_0.9": loop.emas[0.9].weights,
        "opt": [loop.opt.state[loop.weights[0]]["exp_avg_sq"]],
    }[where]
    with torch.no_grad():
        tensors[-1].view(-1)[0] = float("nan")


@pytest.mark.parametrize("where", ["model", "ema_0.9", "opt"])
def test_what_has_diverged_is_not_saved_and_nothing_is_deleted_for_it(train, tmp_path, where):
    folder = tmp_path / "run"
    loop = train(folder, "--keep_last", "1")
    before = files_in(folder)
    poison(loop, where)
    loop.step = 3
    with pytest.raises(ValueError, match=f"{where}.*000003.pt was not saved: 1 of .*diverged"):
        loop.save()
    assert files_in(folder) == before
    assert train(folder, "--resume", "auto", end_step=4).resume_step == 2


@pytest.mark.parametrize("name", ["model000002.pt", "opt000002.pt", "ema_0.9_000002.pt"])
def test_a_run_does_not_go_on_from_numbers_that_are_none(train, tmp_path, monkeypatch, name):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train_state.finite, "check", lambda *_: None)
        loop = train(folder)
        poison(loop, name.rpartition("0000")[0].rstrip("0_"))
        loop.save()
    with pytest.raises(ValueError, match=f"{name}: 1 of .* numbers are not finite"):
        train(folder, "--resume", "auto", end_step=4)


@pytest.mark.parametrize("before", ["fp32", "bf16"])
def test_a_run_that_goes_on_keeps_the_arithmetic_that_auto_had(train, tmp_path, before):
    folder = tmp_path / "run"
    train(folder, "--dtype", before)
    train(folder, "--resume", "auto", "--dtype", "auto", end_step=3)
    assert f"--dtype auto: {before}, since {folder}" in (folder / "log.txt").read_text()
    assert checkpoint.config_in(str(folder))["run"]["dtype"] == before
