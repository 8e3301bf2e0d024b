"""Locks of folders: held by living processes, lost by dead ones. The processes here are real."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from flatdiff.store import lock

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock._Beats, "of", 0)  # another thread than one that sleeps for long
    monkeypatch.setattr(lock, "SILENT", 0.6)
    monkeypatch.setattr(lock, "HALF", 0.2)
    yield
    lock.release()


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder's lock until it is killed."""
    ready = FORK.Event()

    def hold():
        lock.take(str(tmp_path), "training")
        ready.set()
        signal.pause()

    process = FORK.Process(target=hold)
    process.start()
    assert ready.wait(10)
    yield process
    process.kill()
    process.join()


def written(folder, **other):
    """The lock of another process, of this one's kind but for `other`; its path."""
    path = folder / ".training.lock"
    path.write_text(json.dumps(lock._me() | {"token": "another"} | other))
    return path


def test_a_living_process_is_refused_by_name(tmp_path, holder):
    with pytest.raises(
        ValueError, match=rf"in use: training by process {holder.pid} on host .*kill"
    ):
        lock.take(str(tmp_path), "training")
    assert f"training by process {holder.pid}" in "".join(lock.others(str(tmp_path)))
    lock.take(str(tmp_path), "sample")  # other files


def test_kill_9_frees_the_lock_at_once_also_before_it_is_buried(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie still
    lock.take(str(tmp_path), "training")
    assert lock._read(tmp_path / ".training.lock")["pid"] == os.getpid()


def test_a_stopped_process_keeps_its_lock(tmp_path, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    time.sleep(2 * lock.SILENT)
    with pytest.raises(ValueError, match="in use"):
        lock.take(str(tmp_path), "training")


def test_another_process_of_the_same_id_is_not_the_holder(tmp_path):
    written(tmp_path, pid=os.getppid(), started="1")
    lock.take(str(tmp_path), "training")


def test_of_another_host_a_touch_is_a_sign_of_life(tmp_path):
    path = written(tmp_path, place=["elsewhere", "", ""], host="elsewhere", pid=1)
    done = threading.Event()

    def touch():
        while not done.wait(0.05):
            os.utime(path)

    beats = threading.Thread(target=touch, daemon=True)
    beats.start()
    with pytest.raises(ValueError, match="process 1 on host elsewhere"):
        lock.take(str(tmp_path), "training")
    done.set()
    beats.join()
    start = time.monotonic()
    lock.take(str(tmp_path), "training")  # requeued: the other host is silent now
    assert time.monotonic() - start > lock.SILENT / 2


def test_an_old_lock_of_another_host_is_taken_over_without_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENT", 600.0)
    path = written(tmp_path, place=["elsewhere", "", ""])
    os.utime(path, (time.time() - 700,) * 2)
    lock.take(str(tmp_path), "training")


def test_who_was_silent_for_too_long_learns_that_it_has_lost(tmp_path):
    told = []
    lock.take(str(tmp_path), "training", lost=told.append)
    written(tmp_path, host="elsewhere")
    for _ in range(100):
        time.sleep(0.05)
        if told:
            break
    assert "taken over" in told[0] and "elsewhere" in told[0]
    lock.release()
    assert (tmp_path / ".training.lock").exists(), "it is the other's"


def test_a_lock_of_nothing_is_a_dead_writers(tmp_path):
    for text in ("", "{", "[1]", json.dumps(lock._me() | {"pid": "1"})):
        (tmp_path / ".training.lock").write_text(text)
        lock.take(str(tmp_path), "training")
        lock.release()
    assert not list(tmp_path.iterdir())


def test_a_forked_child_neither_holds_nor_frees_its_parents(tmp_path):
    lock.take(str(tmp_path), "training")
    child = FORK.Process(target=lock.release)
    child.start()
    child.join()
    assert lock._read(tmp_path / ".training.lock")["pid"] == os.getpid()


def test_a_scope_lets_go_of_its_own(tmp_path):
    with lock.scope():
        lock.take(str(tmp_path), "study")
        with lock.scope():
            lock.take(str(tmp_path / "a"), "training")
            lock.take(str(tmp_path), "study")
        assert [p.name for p in tmp_path.glob("**/.*.lock")] == [".study.lock"]
    assert not list(tmp_path.glob("**/.*.lock"))


def test_of_many_that_find_a_dead_ones_lock_one_gets_it(tmp_path):
    """Four rounds: eight processes start together, and whoever gets it keeps it till all tried."""
    for _ in range(4):
        written(tmp_path, pid=os.getppid(), started="1")
        start, tried, got = FORK.Event(), FORK.Barrier(8), FORK.Value("i", 0)

        def rush(start=start, tried=tried, got=got):
            start.wait()
            try:
                lock.take(str(tmp_path), "training")
            except ValueError:
                pass
            else:
                with got.get_lock():
                    got.value += 1
            tried.wait(30)

        processes = [FORK.Process(target=rush) for _ in range(8)]
        for process in processes:
            process.start()
        start.set()
        for process in processes:
            process.join()
        assert got.value == 1
        lock._remove(tmp_path / ".training.lock", lock._read(tmp_path / ".training.lock"))
