"""Messages that only ranks can write, and that run nothing."""

import json
import math
import pickle
import re

import pytest
from launch import ROOT

from flatdiff.world import signing

SECRET = "of these ranks"


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("what was received ran",))


@pytest.mark.parametrize("content", [["h5", [0, 1]], {"a": [None, True, 0.1]}, "", math.inf])
def test_a_message_comes_back(content):
    message = signing.signed(SECRET, 3, content)
    assert signing.opened(SECRET, message.encode()) == (3, content)


@pytest.mark.parametrize(
    "message",
    [
        pickle.dumps(Evil()),
        signing.signed("of others", 1, "a").encode(),
        signing.signed(SECRET, 1, "a").replace("1", "2", 1).encode(),
        *[b"", b"{}", b"null", b'["[1, 2]", ""]', b'["[1, 2]", null]', b"[" * 9999, b"\xff"],
        json.dumps(["[1]", "\u00e9"]).encode(),
    ],
)
def test_what_no_rank_wrote_is_refused(message):
    with pytest.raises(ValueError, match="somebody else than our ranks"):
        signing.opened(SECRET, message)


# What unpickles what it is sent: torch's collectives of objects, mpi4py's in lower case, pickle.
UNPICKLE = re.compile(
    r"_object_list|\bdist\.all_gather_object|\bdist\.gather_object|pickle\.(load|Unpickler)"
    r"|COMM_WORLD\.[a-z]*(send|recv|bcast|gather|scatter|reduce|alltoall)\b"
)


def test_no_collective_of_ours_unpickles():
    for line in ("dist.broadcast_object_list(box)", "MPI.COMM_WORLD.bcast(box)"):
        assert UNPICKLE.search(line)
    for path in sorted((ROOT / "flatdiff").rglob("*.py")):
        assert not UNPICKLE.search(path.read_text()), path
