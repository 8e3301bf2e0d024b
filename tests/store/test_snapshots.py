"""Snapshots on disk: what is written is read; what makes no average is one sentence."""

import pytest
import torch

from flatdiff.store import checkpoint, snapshots
from flatdiff.store.snapshots import Track


def write(folder, step, run=1, sizes=(0.05, 0.1), count=None):
    tracks = {Track(s, count or step - 1): {"w": torch.full((3,), s + step)} for s in sizes}
    snapshots.write(str(folder), step, run, tracks)
    return folder / snapshots.name(step)


def test_what_is_written_is_read(tmp_path):
    for step in (200, 50, 100):
        path = write(tmp_path, step)
    found = snapshots.snapshots_of(str(tmp_path))
    assert [s.step for s in found] == [50, 100, 200]
    assert found[1].path == str(path)
    assert found[1].tracks == (Track(0.05, 99), Track(0.1, 99))
    assert [float(w["w"][0]) for w in found[1].load()] == pytest.approx([100.05, 100.1])
    assert [s.step for s in snapshots.snapshots_of(str(tmp_path), [100, 50, 70])] == [50, 100]


def test_no_pruning_takes_them(tmp_path):
    for step in (10, 20, 30):
        for name in (checkpoint.model_name(step), checkpoint.state_name(step)):
            checkpoint.save({}, str(tmp_path / name))
        write(tmp_path, step)
    checkpoint.prune(str(tmp_path), keep_last=1)
    left = {*checkpoint.names_in(str(tmp_path))}
    assert left == {"model000030.pt", "state000030.pt", *map(snapshots.name, (10, 20, 30))}


def damaged(path):
    path.write_bytes(path.read_bytes()[:400])


CASES = {
    "no snapshots in": [],
    "one snapshot alone": [10],
    "snapshots of two trainings": [10, (20, 2)],
    "two trainings": [10, (20, 1, (0.05, 0.2))],
    "of 9 and 8 updates, between which the averages began anew": [10, (20, 1, (0.05, 0.1), 8)],
}


@pytest.mark.parametrize("told", CASES)
def test_what_makes_no_average(tmp_path, told):
    for each in CASES[told]:
        write(tmp_path, *(each if isinstance(each, tuple) else (each,)))
    with pytest.raises(ValueError, match=told):
        snapshots.snapshots_of(str(tmp_path))


@pytest.mark.parametrize("whole", [True, False])
def test_half_a_file_and_another_one_are_named(tmp_path, whole):
    write(tmp_path, 10)
    path = write(tmp_path, 20)
    if whole:
        checkpoint.save({"w": torch.ones(2)}, str(path))
    else:
        damaged(path)
    with pytest.raises(ValueError, match=r"snapshot000020\.pt is damaged"):
        snapshots.snapshots_of(str(tmp_path))


def test_what_a_run_has_lost_is_told_without_a_word_of_the_rest(tmp_path):
    for step in (10, 20, 30, 40):
        path = write(tmp_path, step)
    assert snapshots.lost(str(tmp_path), [10, 20, 30, 40], run=1) == []
    path.unlink()
    damaged(tmp_path / "snapshot000020.pt")
    (tmp_path / "snapshot000010.pt").write_bytes((tmp_path / "snapshot000030.pt").read_bytes())
    write(tmp_path, 30, run=2)
    told = snapshots.lost(str(tmp_path), [10, 20, 30, 40], run=1)
    what = "snapshot of step 30", "is damaged", "of another training", "is missing"
    assert len(told) == 4
    for step, text, expected in zip((10, 20, 30, 40), told, what):
        assert f"snapshot{step:06d}.pt" in text and expected in text
