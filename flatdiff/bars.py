"""The bar of all long work: on a terminal a line that moves, elsewhere a new line now and then.

There is one at a time: a bar that begins inside another takes its place until it ends. What is
said goes above it. Ranks but the first show none.
"""

import contextlib
import math
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

EVERY = 30.0  # seconds between two lines where there is no terminal
LINE = "{n_fmt}/{total_fmt} {unit}, {rate_fmt}, {elapsed} gone, {remaining} left{postfix}"

Item = TypeVar("Item")

_open: list["weakref.ref[Bar]"] = []  # the innermost is the last
_hidden = False


def hide(hidden: bool) -> None:
    """Shows no bar from now on, or shows them again."""
    global _hidden
    _hidden = hidden


def write(text: str, file: TextIO) -> None:
    """Prints a text above the bar, at once."""
    bar = _innermost()
    if bar is not None:
        bar.clear()
    print(text, file=file, flush=True)
    if bar is not None:
        bar.refresh()


def _innermost() -> "Bar | None":
    while _open and _open[-1]() is None:  # one that was never closed
        _open.pop()
    return _open[-1]() if _open else None


def shares(items: Sequence[Item]) -> Iterator[Item]:
    """The items, behind each of which the innermost bar moves by an equal share of its `part`."""
    bar = _innermost()
    share = bar.in_hand / len(items) if bar is not None else 0
    for item in items:
        yield item
        if share:
            bar.update(min(share, bar.end - bar.n))


class Bar(tqdm):
    """tqdm's bar, with its arguments, on stderr. One inside another leaves no trace."""

    monitor_interval = 0  # no thread: it is looked at with each update
    said_t = math.inf
    in_hand, end = 0.0, math.inf

    def __init__(self, *args, disable: bool = False, leave: bool | None = None, **how):
        disable = disable or _hidden
        self.live = sys.stderr.isatty()
        how |= {"leave": not _open if leave is None else leave, "miniters": 0, "position": 0}
        if self.live:
            how |= {"dynamic_ncols": True}
        else:
            named = "{desc}: " if "desc" in how or len(args) > 1 else ""
            how |= {"mininterval": EVERY, "bar_format": named + LINE}
        if not disable:
            if (outer := _innermost()) is not None:
                outer.clear()
            _open.append(weakref.ref(self))
        super().__init__(*args, file=sys.stderr, disable=disable, **how)
        self._time = time.monotonic  # which nobody sets
        self.start_t = self.last_print_t = self.said_t = self.lap_t = self._time()
        self.lap_n = self.n

    @property
    def format_dict(self) -> dict[str, Any]:
        """What is shown: whole things, and behind the end the rate of all."""
        shown = super().format_dict
        return shown | {"n": int(self.n + 1e-6)} | ({"rate": None} if self.disable else {})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Shows the bar, if it is the innermost."""
        if self is not _innermost():
            return False
        if self.live:
            return super().display(msg, pos)
        if self._time() - self.said_t >= EVERY:
            self.said_t = self._time()
            print(self, file=sys.stderr, flush=True)
        return True

    def clear(self, nolock: bool = False) -> None:
        if self.live and self is _innermost():
            super().clear(nolock)

    def close(self) -> None:
        if getattr(self, "disable", True) or sys.is_finalizing():
            return
        if self.live:
            super().close()
        else:
            self.disable = True
            self._decr_instances(self)
            if self.leave and self.n > self.initial:
                print(self, file=sys.stderr, flush=True)
        _open[:] = [bar for bar in _open if bar() is not self]  # == compares places
        if (outer := _innermost()) is not None:
            outer.refresh()

    @contextlib.contextmanager
    def part(self, count: int) -> Iterator[None]:
        """A block in which `count` things are done, in equal `shares` if it has such."""
        self.in_hand, self.end = count, self.n + count
        try:
            yield
            self.update(self.end - self.n)
        finally:
            self.in_hand, self.end = 0.0, math.inf

    def turns(self, batches: Sequence, rank: int, ranks: int) -> Iterator:
        """Every `ranks`-th of the batches, from number `rank` on; what is in the others counts too,
        as their ranks go on meanwhile."""
        for first in range(0, len(batches), ranks):
            turn = batches[first : first + ranks]
            if rank < len(turn):
                with self.part(sum(map(len, turn))):
                    yield turn[rank]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose time is in no rate, and in no time left."""
        clock, began = self._time, self._time()
        self._time = lambda: began
        try:
            yield
        finally:
            self._time, gone = clock, clock() - began
            for name in ("start_t", "last_print_t", "said_t", "lap_t"):
                setattr(self, name, getattr(self, name) + gone)

    def lap(self) -> float | None:
        """Things a second since the last lap; None where none were counted."""
        now, before = self._time(), (self.lap_n, self.lap_t)
        self.lap_n, self.lap_t = self.n, now
        return (self.n - before[0]) / (now - before[1]) if self.n > before[0] else None
