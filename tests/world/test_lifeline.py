"""How ranks end together: what is told of an error, and goodbyes."""

import pytest

from flatdiff.world import lifeline

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
