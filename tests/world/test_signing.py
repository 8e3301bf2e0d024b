"""Messages that only ranks can write, and that run nothing."""

import ast
import json
import math
import pickle

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


UNPICKLE = {
    *"broadcast_object_list gather_object scatter_object_list recv_object_list bcast".split(),
    *"allgather alltoall reduce allreduce sendrecv".split(),  # mpi4py, in lower case
}


@pytest.mark.parametrize("path", sorted((ROOT / "flatdiff").rglob("*.py")), ids=str)
def test_no_collective_of_ours_unpickles(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = getattr(node.value, "id", "")
            assert node.attr not in UNPICKLE or owner == "functools", ast.unparse(node)
            assert (owner, node.attr) != ("dist", "all_gather_object")
            assert owner != "pickle" or node.attr == "PickleError"
