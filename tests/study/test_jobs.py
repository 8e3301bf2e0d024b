"""The cells of a job file: one process a cell."""

import multiprocessing

from flatdiff.store import lock
from flatdiff.study import jobs


def test_two_processes_do_not_work_on_one_cell(tmp_path):
    """The second waits until the first has ended, and then does what is left."""
    fork = multiprocessing.get_context("fork")
    entered, folder = fork.Event(), str(tmp_path / "a")

    def work():
        with jobs._locked(folder):
            entered.set()

    with jobs._locked(folder):
        other = fork.Process(target=work)
        other.start()
        assert not entered.wait(0.3)
    other.join(10)
    assert entered.is_set() and not lock.others(folder)
