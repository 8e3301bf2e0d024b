"""Bars on a clock that is set by hand: off a terminal, and on one of which each line is read."""

import gc
import io
import sys
from types import SimpleNamespace

import pytest

from flatdiff import bars
from flatdiff.bars import Bar


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def lines(self):
        """What a reader sees: behind a carriage return, characters are written over."""
        shown = []
        for line in self.getvalue().split("\n"):
            seen = ""
            for text in line.split("\r"):
                seen = text + seen[len(text) :]
            shown.append(seen.rstrip())
        return shown


@pytest.fixture
def clock(monkeypatch):
    """A function that waits."""
    now = [1000.0]
    monkeypatch.setattr(bars, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def told(capsys):
    return capsys.readouterr().err.splitlines()


def test_off_a_terminal_there_is_a_line_in_half_a_minute(clock, capsys):
    with Bar(total=100, desc="sampling", unit="image") as bar:
        for _ in range(100):
            clock(1)
            bar.update()
            bar.set_postfix(loss="0.1")
            bars.write("a sentence", sys.stdout)
    done, gone = (30, 60, 90, 100), ("00:30", "01:00", "01:30", "01:40")
    left = ("01:10", "00:40", "00:10", "00:00")
    assert told(capsys) == [
        f"sampling: {n}/100 image,  1.00image/s, {g} gone, {rest} left, loss=0.1"
        for n, g, rest in zip(done, gone, left)
    ]


def test_what_goes_on_beside_it_is_in_no_rate(clock, capsys):
    with Bar(total=200, unit="step") as bar:
        for step in range(100):
            clock(0.5)
            bar.update()
            if step == 69:
                with bar.paused(), Bar(total=10, desc="judging") as inner, inner.paused():
                    clock(25)
                    inner.update(10)
    assert told(capsys) == [
        "60/200 step,  2.00step/s, 00:30 gone, 01:10 left",
        "100/200 step,  2.00step/s, 00:50 gone, 00:50 left",
    ]


def test_a_lap_is_the_rate_since_the_last_one(clock):
    with Bar(total=30) as bar:
        assert bar.lap() is None
        for seconds in (2, 4):
            with bar.paused():
                clock(100)
            for _ in range(10):
                clock(seconds)
                bar.update()
            assert bar.lap() == 1 / seconds


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_are_counted_and_each_share_moves_it(ranks, clock, monkeypatch):
    monkeypatch.setattr(bars, "_hidden", False)
    batches = [range(4), range(4, 8), range(8, 10)]
    taken = []
    for rank in range(ranks):
        with Bar(total=10) as bar:
            seen = []
            for indices in bar.turns(batches, rank, ranks):
                taken += indices
                begun = bar.n
                for i in bars.shares(range(5)):
                    seen.append(bar.n)
                    assert bar.n == pytest.approx(begun + bar.in_hand * i / 5)
        assert rank > 0 or bar.n == 10
        assert seen == sorted({*seen})
    assert sorted(taken) == list(range(10))


def test_one_bar_at_a_time_below_what_is_said(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bar(total=2, desc="training") as bar:
        bar.update()
        bars.write("| a table |", terminal)
        with Bar(total=3, desc="judging") as inner:
            inner.update(3)
            bars.write("a sentence that is longer than any bar, to the end of the line", terminal)
            assert terminal.lines()[-1].startswith("judging: 100%")
            bar.refresh()
            assert terminal.lines()[-1].startswith("judging: 100%")
        assert (
            terminal.lines()[-1].startswith("training:  50%")
            and "judging" not in terminal.lines()[-1]
        )
        bar.update()
    table, sentence, last, rest = terminal.lines()
    assert table == "| a table |" and sentence.endswith("to the end of the line")
    assert last.startswith("training: 100%") and "2/2" in last and rest == ""


def test_a_hidden_bar_says_nothing_and_an_error_closes_a_bar(capsys):
    bars.hide(True)
    assert list(Bar(range(3))) == [0, 1, 2]
    bars.hide(False)
    with pytest.raises(ValueError), Bar(total=3) as outer, Bar(total=3, desc="inner"):
        outer.update()
        raise ValueError
    (line,) = told(capsys)
    assert line.startswith("1/3 it, ") and not bars._open


def test_a_bar_that_nobody_closes_is_in_nobodys_way(clock, capsys):
    with Bar(total=1, desc="outer") as bar:
        lost = Bar(total=3)
        lost.itself = lost
        del lost
        gc.collect()
        clock(31)
        bar.update()
        assert told(capsys)[-1].startswith("outer: 1/1 ")
