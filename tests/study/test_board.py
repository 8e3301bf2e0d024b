"""The time that is left, by hand."""

from types import SimpleNamespace

from flatdiff.study.board import Board, clock


def test_time_left_is_by_the_pace_of_each_kind():
    def job(kind, state, cost, seconds=0.0):
        return SimpleNamespace(name="", kind=kind, state=state, cost=cost, seconds=seconds)

    jobs = [job("train", "done", 2, 60), job("train", "running", 4, 20), job("train", "left", 1)]
    assert Board(jobs, 1).left() == "about 2:10 left"  # 30 s a unit: 120 - 20, and 30
    assert Board(jobs, 2).left() == "about 1:05 left"
    assert Board([*jobs, job("measure", "left", 1)], 1).left() == ("about 2:10, 1 to measure left")
    assert clock(3723.4) == "1:02:03"
