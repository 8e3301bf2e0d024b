"""How ranks end together: what is told of an error, and goodbyes."""

from multiprocessing import connection

import pytest

from flatdiff.world import lifeline, stopping

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


of_a_thread = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def line(monkeypatch):
    """Rank 0's lifeline to a rank 1, whose end of it is given with it; `end` is noted."""
    ours, theirs = connection.Pipe()
    monkeypatch.setattr(lifeline.connection, "Listener", lambda *_, **__: _Listener(ours))
    theirs.send_bytes(b"rank 1 (process 7 on b)")
    ends = []

    def end(*call):
        ends.append(call)
        raise SystemExit

    monkeypatch.setattr(lifeline, "end", end)
    monkeypatch.setattr(lifeline, "LAST_WORDS", 0.0)
    yield lifeline.Lifeline(0, 2, "127.0.0.1", lambda _: None), theirs, ends
    lifeline._peers.clear()


class _Listener:
    address = "127.0.0.1", 1

    def __init__(self, peer):
        self.accept = lambda: peer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@of_a_thread
@pytest.mark.parametrize(
    ("said", "kills", "told"),
    [
        (lifeline.SAID, 0, [PEER_FAILED]),
        (b"", 0, [PEER_FAILED, "rank 1 (process 7 on b) ended without a word", "crashed, or was"]),
        (b"", 1, [PEER_FAILED, "rank 1 (process 7 on b) ended", "kernel has killed for want of"]),
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
