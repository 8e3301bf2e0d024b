"""Paths by blobfile's names: on local ones they do what blobfile does, without it."""

import sys

import blobfile
import pytest

from flatdiff.store import remote
from flatdiff.world import lifeline


@pytest.mark.parametrize("name", ["exists", "isdir", "dirname", "listdir", "glob"])
def test_a_local_path_is_answered_as_by_blobfile(name, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("1")
    paths = {"glob": ["/f*", "/*/file", "/folder"], "listdir": ["", "/folder", "/folder/"]}
    for path in paths.get(name, ["", "/folder/", "/folder/file", "/nothing", "//x"]):
        expected = getattr(blobfile, name)(f"{tmp_path}{path}")
        with monkeypatch.context() as context:
            context.setitem(sys.modules, "blobfile", None)
            found = getattr(remote, name)(f"{tmp_path}{path}")
        if name in ("glob", "listdir"):
            found, expected = sorted(found), sorted(expected)
        assert found == expected


def test_join_and_stat_are_blobfiles(tmp_path):
    for parts in (("a", "b"), ("a/", "b"), ("a", "/b"), ("gs://a", "b"), ("gs://a/", "b/c")):
        assert remote.join(*parts) == blobfile.join(*parts)
    (tmp_path / "file").write_bytes(b"123")
    told, expected = (m.stat(str(tmp_path / "file")) for m in (remote, blobfile))
    assert told == (expected.size, expected.mtime) and told.size == 3


def test_a_remote_path_says_what_it_takes(monkeypatch):
    assert remote.is_remote("az://a/b") and not remote.is_remote("a/b")
    monkeypatch.setitem(sys.modules, "blobfile", None)
    with pytest.raises(ValueError, match="gs://a/b is remote, which takes: pip install blobfile"):
        remote.exists("gs://a/b")


def test_what_blobfile_says_is_a_sentence():
    text, _ = lifeline.explain(blobfile.Error("no such bucket"))
    assert "Traceback" not in text and "no such bucket" in text
    assert not remote.is_error(RuntimeError("x"))
