"""The cells of a job file: one process a cell."""

import fcntl

import pytest

from flatdiff.study import jobs


def test_two_processes_do_not_work_on_one_cell(tmp_path):
    def lock():
        with open(tmp_path / "a/lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with jobs._locked(str(tmp_path / "a")), pytest.raises(BlockingIOError):
        lock()
    lock()
