"""How ranks end together: what is told of an error, and goodbyes."""

import errno
import os
import socket
import sys
import threading
from multiprocessing import connection

import pytest

from flatdiff.world import lifeline, signing, stopping

PEER_FAILED = "stopped because another rank failed"


@pytest.mark.parametrize(
    "text",
    [
        "[pair.cc:553] Connection closed by peer [127.0.0.1]:2193. This is typically ...",
        "[pair.cc:537] Read error [127.0.0.1]:2436: Connection reset by peer.",
        "NCCL error: remote process exited or there was a network error",
        "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server ...",
    ],
)
def test_errors_that_a_dead_peer_causes_are_not_told_as_this_ranks_own(text):
    assert lifeline.explain(RuntimeError(text)) == (PEER_FAILED, 1)


def test_a_collective_that_waited_too_long_says_so():
    text, code = lifeline.explain(RuntimeError("Timed out waiting 1800000ms for recv operation"))
    assert (text.splitlines(), code) == ([text], 1)
    assert "waited in vain for the other ranks" in text


def test_strangers_take_no_ranks_place(monkeypatch):
    """One who does not know the secret, one who says anything, one who hangs up, one who waits."""
    monkeypatch.setattr(lifeline, "PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        lines = [socket.create_connection(server.getsockname()) for _ in range(6)]
        for line, words in zip(lines, [signing.signed("guessed", 1, "h1"), "GET /", ""]):
            line.sendall(words.encode() + b"\n")
        lines[2].close()
        for rank, line in ((2, lines[4]), (1, lines[5])):
            line.sendall(signing.signed("secret", rank, "h1").encode() + b"\n")
        found = lifeline._called(server, 2, "secret")
    assert list(found.values()) == ["rank 2 on host h1", "rank 1 on host h1"]
    assert [line.getpeername() for line in found] == [line.getsockname() for line in lines[4:]]


def test_a_silent_host_is_asked_within_half_a_minute():
    with socket.socket() as line:
        lifeline._keep_asking(line)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, count = (line.getsockopt(socket.IPPROTO_TCP, o) for o in options)
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert idle + interval * count == lifeline.SILENCE < 30
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 23000


@pytest.mark.parametrize("cause", [errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_a_cut_link_names_who_is_behind_it(cause):
    told = lifeline._silent("rank 3 on host h6", OSError(cause, "why"))
    assert told.startswith("rank 3 on host h6 has gone silent") and "--resume auto" in told


def test_a_dead_process_is_no_cut_link():
    reset = OSError(errno.ECONNRESET, "Connection reset by peer")
    assert lifeline._silent("rank 3 on host h6", reset) == ""


of_a_thread = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def line(monkeypatch):
    """Rank 0's lifeline to a rank 1, whose end of it is given with it; `end` is noted."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(lifeline, "_called", lambda *_: {ours: "rank 1 on host b (process 7)"})
    monkeypatch.setattr(lifeline, "_keep_asking", lambda _: None)  # which is for TCP
    ends = []

    def end(*call):
        ends.append(call)
        raise SystemExit

    monkeypatch.setattr(lifeline, "end", end)
    monkeypatch.setattr(lifeline, "LAST_WORDS", 0.0)
    line = lifeline.Lifeline(0, 2, "127.0.0.1", lambda _: None, "secret")
    yield line, connection.Connection(theirs.detach()), ends
    lifeline._peers.clear()


@of_a_thread
@pytest.mark.parametrize(
    ("said", "kills", "told"),
    [
        (lifeline.SAID, 0, [PEER_FAILED]),
        (
            b"",
            0,
            [PEER_FAILED, "process 7) ended without a word", "crashed, or was"],
        ),
        (
            b"",
            1,
            [PEER_FAILED, "rank 1 on host b (process 7)", "kernel has killed for want of"],
        ),
    ],
)
def test_a_rank_that_died_is_named_unless_it_said_why_itself(line, monkeypatch, said, kills, told):
    thread, theirs, ends = line
    monkeypatch.setattr(lifeline, "_kills_for_memory", lambda: thread.kills + kills)
    if said:
        theirs.send_bytes(said)
    theirs.close()
    thread.join(10)
    ((rank, text, code),) = ends
    assert (rank, code) == (0, 1) and all(part in text for part in told)
    assert (text == PEER_FAILED) == bool(said)


@of_a_thread
def test_a_rank_that_is_asked_to_end_asks_the_others_whose_end_is_none_of_an_error(line, capsys):
    thread, theirs, ends = line
    with stopping.listening(lambda *_: None), stopping.deferred():
        stopping.connect(lambda by: lifeline.say(by.encode()))
        theirs.send_bytes(b"SIGTERM")
        assert theirs.poll(10) and theirs.recv_bytes() == b"SIGTERM"  # so is who it came from
        assert stopping.asked() == "SIGTERM"
        theirs.close()
        thread.join(10)
    assert ends == [(0, "", 75)]
    assert capsys.readouterr().out == "stopped by SIGTERM\n"


def test_a_rank_whose_terminal_was_closed_ends_all_the_same(monkeypatch):
    class Closed:
        def write(self, _):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        flush = isatty = write

    class Left(BaseException):
        pass

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(lifeline, "_ending", threading.Lock())
    with pytest.raises(Left, match="1"):
        lifeline.end(1, PEER_FAILED, 1)
