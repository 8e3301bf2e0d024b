"""Ends a run that is asked to: by a signal, by another rank, or because its time is nearly up.

Training only marks it, saves at the end of the step and leaves; whatever keeps its parts as it goes
ends where it is. Either way the exit code is 75. A second signal, a second later, ends at once.
"""

import contextlib
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from . import logger

CODE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, and the same command goes on
NAMES = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGINT: "Ctrl-C",
    signal.SIGUSR1: "SIGUSR1",
    signal.SIGUSR2: "SIGUSR2",
    signal.SIGHUP: "the end of its terminal",
}
ONE = 1.0  # seconds in which signals are one request: launchers pass on what a terminal sends too
SPARE = 60.0  # seconds left at the end of a time limit, or a tenth of it where that is less


class Stopped(SystemExit):
    """Leaves a script that was asked to end. `together`: all ranks raise it at one place."""

    def __init__(self, together: bool = False):
        super().__init__(CODE)
        self.together = together


class _Request:
    """What a session knows of being asked to end."""

    def __init__(self):
        self.by = ""  # who asked; "": nobody
        self.deferred = self.raised = self.announced = self.told = False
        self.waits, self.kept, self.room = "", "", 0.0
        self.tell: Callable[[str], None] = lambda by: None

    def take(self, by: str) -> None:
        self.by = self.by or by


_now: _Request | None = None  # of the session that listens


def asked() -> str:
    """Who asked this process, or a rank beside it, to end; "" while nobody has."""
    return _now.by if _now else ""


def check() -> None:
    """Leaves, where this was asked for while it was deferred."""
    if asked():
        raise Stopped


def leave(by: str) -> NoReturn:
    """Leaves because `by` was stopped."""
    if _now:
        _now.take(by)
    raise Stopped


def ask(by: str) -> None:
    """Ends this process as a signal does; for threads beside the main one."""
    if _now and not _now.by:
        _now.take(by)
        _announce()
        if not _now.deferred:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)


@contextlib.contextmanager
def deferred(waits: str = "") -> Iterator[None]:
    """A block that looks at `asked` itself; `waits`: what a person is told that it does first."""
    now = _now or _Request()
    outer = now.deferred, now.waits
    now.deferred, now.waits = True, waits
    try:
        yield
    finally:
        now.deferred, now.waits = outer


def keeps(text: str) -> None:
    """What is told to stay, and how to go on, if this is stopped from here on."""
    if _now:
        _now.kept = text


def together(stop: SystemExit) -> bool:
    """Whether all ranks leave by this exception; of one that was asked for it tells."""
    if isinstance(stop, Stopped):
        farewell()
    return getattr(stop, "together", False)


def farewell() -> int:
    """Tells, once, who stopped this and what is kept; returns the exit code."""
    if _now and not _now.told:
        _now.told = True
        logger.log(f"stopped by {asked()}" + (f": {_now.kept}" if _now.kept else ""))
    return CODE


def connect(tell: Callable[[str], None]) -> None:
    """Has the other ranks told of who asked this one."""
    if _now:
        _now.tell = tell


def reserve(seconds: float) -> None:
    """Leaves twice so many seconds at the end of a time limit, if no more are left already."""
    if _now:
        _now.room = max(_now.room, 2 * seconds)


def limit(hours: float) -> None:
    """Asks to end in time: before so many hours, if not 0, and before SLURM ends the job."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    left = int(end) - time.time() if end.isdigit() else 0.0  # a clock may jump later
    for seconds, by in ((3600 * hours, f"--max_hours {hours:g}"), (left, "the SLURM job's end")):
        if seconds > 0:
            end_at = time.monotonic() + seconds - min(SPARE, seconds / 10)
            threading.Thread(target=_watch_clock, args=(_now, end_at, by), daemon=True).start()


def _watch_clock(request: _Request | None, end_at: float, by: str) -> None:
    while request and request is _now:
        left = end_at - request.room - time.monotonic()
        if left <= 0:
            ask(by)
            return
        time.sleep(min(left, 1.0))


@contextlib.contextmanager
def listening(end: Callable[[str, int], None]) -> Iterator[_Request]:
    """A block that signals end as this room says; those that are ignored (nohup) stay ignored.

    end: prints a text and ends the process with an exit code, at once and from any thread.
    """
    global _now
    _now = _Request()
    if threading.current_thread() is not threading.main_thread():
        yield _now
        return
    ours = [number for number in NAMES if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _on_signal) for number in ours}
    hears, speaks = socket.socketpair()
    speaks.setblocking(False)
    # Python's handlers wait for the main thread, which may wait for another rank for ever
    outer = signal.set_wakeup_fd(speaks.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(hears, end), daemon=True)
    thread.start()
    try:
        yield _now
    finally:
        signal.set_wakeup_fd(outer)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        speaks.close()
        thread.join()
        hears.close()
        _now = None


def _on_signal(number: int, frame) -> None:
    """In the main thread, between two of its steps."""
    if _now is None:
        return
    _now.take(NAMES[number])
    if not _now.deferred and not _now.raised:
        _now.raised = True
        raise Stopped


def _listen(hears: socket.socket, end: Callable[[str, int], None]) -> None:
    """In a thread, whatever the main one does."""
    first = math.inf
    while numbers := hears.recv(1):
        number, when = numbers[0], time.monotonic()
        if number not in NAMES or _now is None:
            continue
        if number == signal.SIGHUP:
            _leave_terminal()
        if when - first > ONE:
            end(f"ended at once by a second signal ({NAMES[number]})", 128 + number)
        first = min(first, when)
        _now.take(NAMES[number])
        _announce()


def _announce() -> None:
    """Tells the other ranks, once, and a person who has to wait."""
    if not _now.announced:
        _now.announced = True
        _now.tell(_now.by)
        if _now.deferred and _now.waits:
            logger.log(f"{_now.by}: {_now.waits} (a second one ends it at once)")


def _leave_terminal() -> None:
    """What is still said goes nowhere: to write to a terminal that is gone is an error."""
    with open(os.devnull, "w") as nowhere:
        for stream in (sys.__stdout__, sys.__stderr__):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                if stream.isatty():
                    os.dup2(nowhere.fileno(), stream.fileno())


def _forget() -> None:
    """A forked process is ended as any other."""
    for number in NAMES:
        if signal.getsignal(number) is _on_signal:
            signal.set_wakeup_fd(-1)
            default = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if default else signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
