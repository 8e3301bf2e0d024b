"""Real signals to this process, and what becomes of a block that is asked to end."""

import os
import signal
import threading
import time

import pytest

from flatdiff.world import dist_util, logger, stopping


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def until(true):
    for _ in range(500):
        if true():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def heard():
    """A function has a signal heeded that these tests ignore, as under nohup; how it is now."""
    before = {}

    def hear(number):
        before[number] = signal.getsignal(number)
        if before[number] is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
        return signal.getsignal(number)

    yield hear
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def ended(monkeypatch):
    """What an end at once was called with, within a listening block; requests are far apart at
    once."""
    calls = []
    monkeypatch.setattr(stopping, "ONE", 0.1)
    with stopping.listening(lambda *call: calls.append(call)):
        yield calls


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]
)
def test_a_session_that_is_asked_to_end_tells_what_stays_and_exits_with_75(capsys, heard, number):
    before = heard(number)
    with pytest.raises(SystemExit) as stopped, dist_util.session():
        stopping.keeps("all is in DIR")
        send(number)
        time.sleep(5)
    assert stopped.value.code == 75
    assert capsys.readouterr().out == f"stopped by {stopping.NAMES[number]}: all is in DIR\n"
    assert signal.getsignal(number) is before and not stopping.asked()


def test_a_deferred_block_is_only_marked(ended, capsys):
    with stopping.deferred("saves first"):
        send(signal.SIGUSR1, signal.SIGTERM)  # at once: one request
        assert until(lambda: "saves first" in capsys.readouterr().out)
        assert stopping.asked() == "SIGUSR1"
    assert not ended
    with pytest.raises(stopping.Stopped):
        stopping.check()


def test_a_second_signal_ends_at_once(ended, capsys):
    with stopping.deferred("saves first"):
        send(signal.SIGTERM)
        assert until(lambda: "saves first" in capsys.readouterr().out)
        time.sleep(0.2)
        send(signal.SIGINT)
        assert until(lambda: ended)
    assert ended == [("ended at once by a second signal (Ctrl-C)", 128 + signal.SIGINT)]


def test_what_comes_after_a_request_that_was_no_signal_is_the_first(ended):
    with stopping.deferred():
        stopping.ask("rank 1")
        time.sleep(0.2)
        send(signal.SIGTERM)
        assert until(stopping.asked) and stopping.asked() == "rank 1"
        time.sleep(0.1)
    assert not ended


def test_a_thread_ends_the_main_one_out_of_its_sleep_and_tells_the_others(ended):
    told = []
    stopping.connect(told.append)
    threading.Timer(0.05, stopping.ask, ["rank 1"]).start()
    start = time.monotonic()
    with pytest.raises(stopping.Stopped):
        time.sleep(20)
    assert time.monotonic() - start < 10 and told == ["rank 1"]


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stopping.listening(lambda *_: None):
            send(signal.SIGHUP)
            time.sleep(0.05)
            assert not stopping.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_process_is_ended_as_any_other(ended):
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.write(writes, b"begun")
        time.sleep(20)
        os._exit(0)
    os.read(reads, 5)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    time.sleep(0.05)
    assert not stopping.asked()


@pytest.mark.parametrize(
    ("hours", "slurm", "by", "seconds"),
    [
        (1 / 3600, "", "--max_hours 0.000277778", 0.9),
        (0.0, 2.0, "the SLURM job's end", 0.6),  # whose clock has whole seconds
    ],
)
def test_time_that_is_nearly_up_is_a_request(ended, monkeypatch, hours, slurm, by, seconds):
    if slurm:
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + slurm)))
    start = time.monotonic()
    with stopping.deferred():
        stopping.limit(hours)
        assert until(stopping.asked) and stopping.asked() == by
    assert time.monotonic() - start > seconds - 0.1


def test_time_is_left_for_two_saves(ended):
    with stopping.deferred():
        stopping.reserve(20)
        stopping.limit(30 / 3600)
        assert until(stopping.asked)


@pytest.mark.parametrize("end", ["", "soon", "1000000000"])
def test_an_end_that_is_none_or_long_gone_asks_nothing(ended, monkeypatch, end):
    monkeypatch.setenv("SLURM_JOB_END_TIME", end)
    with stopping.deferred():
        stopping.limit(0.0)
        time.sleep(0.05)
        assert not stopping.asked()


def test_without_a_session_nothing_changes(quiet):
    before = signal.getsignal(signal.SIGTERM)
    with stopping.deferred("saves"):
        stopping.keeps("all")
        stopping.reserve(1)
        stopping.ask("a clock")
        assert not stopping.asked() and signal.getsignal(signal.SIGTERM) is before
    assert logger.get_dir() == str(quiet)
