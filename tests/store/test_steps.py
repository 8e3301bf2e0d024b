"""A step is whole or it is not: hashes of its files, by hashlib, and what a run falls back on."""

import hashlib
import os

import pytest
import torch

from flatdiff.store import checkpoint, steps

FILES = ("model{:06d}.pt", "ema_0.9_{:06d}.pt", "opt{:06d}.pt")


def save(folder, step, run="a"):
    files = {name.format(step): {"w": torch.full((99,), float(step))} for name in FILES}
    steps.write(str(folder), step, files, {"step": step, "run": run})


def test_the_state_holds_the_hash_of_every_other_file_and_is_written_last(tmp_path):
    save(tmp_path, 5)
    state = torch.load(tmp_path / "state000005.pt")
    names = [name.format(5) for name in FILES]
    hashes = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names}
    assert state == {"step": 5, "run": "a", "files": hashes}
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert max(times, key=times.get) == "state000005.pt" and len(times) == 4
    assert steps.damage(str(tmp_path), 5) == ""


def test_a_loss_of_power_finds_bytes_before_names_and_the_state_last(tmp_path, monkeypatch):
    """What a name leads to is on the disk before the name, and a state after all that it names."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        calls.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def renamed(part, path):
        calls.append(("rename", os.path.basename(path)))
        replace(part, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    save(tmp_path, 5)
    names = [*(name.format(5) for name in FILES), "state000005.pt"]
    folder = ("fsync", tmp_path.name)
    each = ([("fsync", f"{name}.flatdiff-part"), ("rename", name), folder] for name in names)
    assert calls == [call for of_name in each for call in of_name]


def test_a_run_is_its_first_weights_and_its_seed():
    weights = [torch.randn(2, 3), torch.randn(4, 2, 3, 3).to(memory_format=torch.channels_last)]
    one = steps.run_of(weights, 3)
    assert one == steps.run_of([w.contiguous().clone() for w in weights], 3)
    assert one != steps.run_of(weights, 4)
    weights[1][0, 0, 0, 0] += 1e-6
    assert one != steps.run_of(weights, 3)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip,
    "of another step": lambda path: path.write_bytes(
        path.with_name(path.name.replace("000002", "000001")).read_bytes()
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, "state{:06d}.pt"])
def test_a_damaged_step_is_told_and_the_one_before_it_taken(name, how, tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / name.format(2)
    DAMAGES[how](path)
    found, wrong = steps.newest_whole(str(tmp_path))
    assert found == f"{tmp_path}/model000001.pt"
    if (name[:5], how) == ("state", "missing"):
        assert wrong == []  # a step that was never finished
        return
    assert len(wrong) == 1 and wrong[0].startswith(f"step 2 is not whole: {path} ")
    steps.set_aside(str(tmp_path), after=1)
    names = sorted(os.listdir(tmp_path))
    assert {n for n in names if "000002" in n and not n.endswith(".damaged")} == set()
    assert len(names) == 8 - (how == "missing")
    assert steps.newest_whole(str(tmp_path)) == (found, [])


def test_no_whole_step_is_an_error_and_no_step_is_none(tmp_path):
    assert steps.newest_whole(str(tmp_path)) == (None, [])
    save(tmp_path, 1)
    (tmp_path / "opt000001.pt").unlink()
    with pytest.raises(ValueError, match=r"no step in .* is whole.*opt000001.pt is missing"):
        steps.newest_whole(str(tmp_path))


def test_steps_of_two_runs_are_told(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, run="b")
    with pytest.raises(ValueError, match="steps 1 and 2 in .* are of two trainings"):
        steps.newest_whole(str(tmp_path))


def test_files_without_hashes_are_taken_as_they_are(tmp_path):
    """guided-diffusion's have no state, and those of older runs tell no hashes."""
    checkpoint.save({}, f"{tmp_path}/model000003.pt")
    assert steps.newest_whole(str(tmp_path)) == (None, [])
    checkpoint.save({"step": 3, "seed": 0}, f"{tmp_path}/state000003.pt")
    assert steps.newest_whole(str(tmp_path)) == (f"{tmp_path}/model000003.pt", [])
    save(tmp_path, 4)
    assert steps.newest_whole(str(tmp_path)) == (f"{tmp_path}/model000004.pt", [])


@pytest.mark.parametrize(
    "files", [["model000001.pt"], {"../x.pt": "0"}, {"model000002.pt": "0"}, {"opt000001.pt": 1}, 3]
)
def test_a_state_of_another_kind_is_told(files, tmp_path):
    save(tmp_path, 1)
    checkpoint.save({"step": 1, "run": "a", "files": files}, f"{tmp_path}/state000001.pt")
    assert "state000001.pt" in steps.damage(str(tmp_path), 1)
