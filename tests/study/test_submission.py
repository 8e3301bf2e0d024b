"""Jobs on this machine: who has which GPU."""

import sys
import time

import pytest
import torch

from flatdiff.study import submission


@pytest.mark.parametrize(
    ("slot", "ranks", "gpus", "own"),
    [
        (0, 1, ["0", "1"], "0"),
        (1, 1, ["0", "1"], "1"),
        (2, 1, ["0", "1"], "0"),  # more slots than GPUs: by turns
        (1, 1, ["5", "GPU-8932f937"], "GPU-8932f937"),
        (1, 2, ["0", "1", "2", "3"], "2,3"),  # a GPU a rank
        (1, 2, ["0", "1", "2"], "2,0"),
        (0, 2, ["7"], "7"),  # the job says that its ranks need two
        (0, 1, [], None),
    ],
)
def test_a_slot_has_gpus_of_its_own(slot, ranks, gpus, own):
    expected = {} if own is None else {"CUDA_VISIBLE_DEVICES": own}
    assert submission.gpus_of(slot, ranks, gpus) == expected


@pytest.mark.parametrize(
    ("visible", "count", "gpus"),
    [
        (None, 3, ["0", "1", "2"]),
        ("4,6", 2, ["4", "6"]),
        ("4,-1,6", 1, ["4"]),  # CUDA stops at the first that there is not
        ("", 0, []),
        (None, 0, []),
    ],
)
def test_gpus_are_those_that_the_user_made_visible(monkeypatch, visible, count, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert submission.gpus() == gpus


def test_the_slot_of_a_job_that_ended_is_the_next_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(submission, "gpus", lambda: ["4", "6"])
    log, say = str(tmp_path / "log"), "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    sleep = "import sys, time; sys.stdout.flush(); time.sleep(60)"
    long, short = ([sys.executable, "-c", code] for code in (f"{say}; {sleep}", say))
    with submission.here(2, 1) as begin:
        (first, second) = begin([(long, log + "0"), (short, log + "1")])
        assert second.wait(30) == 0
        (third,) = begin([(short, log + "2")])
        assert third.wait(30) == 0 and first.poll() is None
        while not (tmp_path / "log0").read_text().endswith("\n"):
            time.sleep(0.02)
    assert first.poll() is not None
    told = [(tmp_path / f"log{i}").read_text() for i in range(3)]
    assert told == ["4\n", "6\n", "6\n"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with submission.here(1, 1) as begin:  # alone it has all of them
        (alone,) = begin([(short, log + "3")])
        assert alone.wait(30) == 0
    assert (tmp_path / "log3").read_text() == "4,6\n"
