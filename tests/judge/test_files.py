"""A file is whole or absent, and where results are kept."""

import errno
import hashlib
import os

import numpy as np
import pytest

from flatdiff.judge import files
from flatdiff.judge.files import default_cache_dir, keep, kept, must_be_named, write_atomically


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path):
    path = tmp_path / "new" / "a"
    write_atomically(str(path), lambda file: file.write(b"old"))

    def write(file):
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    write_atomically(str(path), write)
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["a"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_one_that_fails_leaves_the_old_and_no_half(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(str(path), write)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]
    if isinstance(error, OSError):
        assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC


def test_results_are_kept_where_caches_are(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_dir() == "/somewhere/flatdiff"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache_dir() == "/home/me/.cache/flatdiff"


def test_what_is_kept_is_found_as_it_was(tmp_path, capsys):
    path, content = str(tmp_path / "a.npz"), {"mean": np.arange(3.0), "notes": np.array(["a", "b"])}
    assert kept(path) is None
    keep(path, content)
    found = kept(path)
    assert found.keys() == content.keys()
    for name, array in content.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", ["cut", "empty", "another mean", "no checksum", "a folder"])
def test_what_was_altered_is_a_warning_and_absent(tmp_path, capsys, how):
    path = tmp_path / "a.npz"
    keep(str(path), {"mean": np.arange(3.0)})
    with np.load(path) as file:
        told = dict(file)
    if how in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 200 * (how == "cut")])
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        told |= {"mean": told["mean"] + 1}
        np.savez(path, **{k: v for k, v in told.items() if how == "another mean" or k == "mean"})
    assert kept(str(path)) is None
    assert f"warning: {path} is not used, and made anew" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file" / "a.npz", tmp_path / ("a" * 300)):
        keep(str(path), {"mean": np.arange(3.0)})
        assert f"warning: {path} is not kept" in capsys.readouterr().err


def test_a_file_has_the_hash_that_its_name_carries(tmp_path, capsys):
    data = b"weights"
    own = hashlib.sha256(data).hexdigest()[:8]
    for name in (f"w-{own}.pth", "w.pth", "w-2015-12-05.pth", f"w-{'0' * 8}.pth"):
        (tmp_path / name).write_bytes(data)
    must_be_named(str(tmp_path / f"w-{own}.pth"), f"theirs-{own}.pth", "example.org")
    must_be_named(str(tmp_path / "w.pth"), f"theirs-{own}.pth", "example.org")
    must_be_named(str(tmp_path / "w-2015-12-05.pth"), "theirs.pth", "example.org")
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match=f"is {own}.*expected 00000000.*from example.org"):
        must_be_named(str(tmp_path / f"w-{'0' * 8}.pth"), "theirs.pth", "example.org")
    must_be_named(str(tmp_path / "w.pth"), "theirs-0123456789.pth", "example.org")
    assert "is not the published theirs-0123456789.pth" in capsys.readouterr().err
    assert files.sha256([str(tmp_path / "w.pth")]) == hashlib.sha256(data).hexdigest()


def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and passwd
    assert default_cache_dir() == ""
