"""Folders of our own: which are taken, and what others could have written is not read."""

import os
import tempfile

import pytest

from flatdiff.store import private


@pytest.fixture
def folder(tmp_path):
    return private.first_of([tmp_path / "made" / "ours"])


def test_what_is_written_is_read_and_is_no_one_elses(folder):
    before = os.umask(0)
    try:
        private.write(folder / "a", b"1")
    finally:
        os.umask(before)
    with private.reading(folder / "a") as file:
        assert file.read() == b"1"
    assert [oct(os.stat(p).st_mode)[-3:] for p in (folder, folder / "a")] == ["700", "600"]


def test_a_write_that_fails_leaves_nothing(folder):
    with pytest.raises(TypeError):
        private.write(folder / "a", None)
    assert not list(folder.iterdir())


# What another user may have done before, and what is said of it.
PLANTED = {
    "another user's": lambda path, elsewhere: None,
    "may write to": lambda path, elsewhere: path.chmod(0o777),
    "a link": lambda path, elsewhere: (path.rename(elsewhere), path.symlink_to(elsewhere)),
    "a folder": lambda path, elsewhere: (path.rmdir(), path.touch()),
}


def _plant(said, path, monkeypatch):
    PLANTED[said](path, path.with_name("elsewhere"))
    if said == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: os.stat(path).st_uid + 1)


@pytest.mark.parametrize("said", PLANTED)
def test_a_folder_that_others_made_is_refused_and_the_next_one_taken(folder, monkeypatch, said):
    _plant(said, folder, monkeypatch)
    with pytest.raises(OSError, match=f"{folder}.*{said}|{said}.*{folder}"):
        private.first_of([folder])
    if said != "another user's":
        assert private.first_of([folder, folder.with_name("next")]).name == "next"


@pytest.mark.parametrize("said", ["another user's", "may write to", "a link"])
def test_a_file_that_others_wrote_is_not_read(folder, monkeypatch, said):
    private.write(folder / "a", b"1")
    _plant(said, folder / "a", monkeypatch)
    with pytest.raises(OSError, match="symbolic links" if said == "a link" else said):
        private.reading(folder / "a")


def test_where_nothing_can_be_made_each_place_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/one.*file/two"):
        private.first_of([tmp_path / "file" / "one", tmp_path / "file" / "two"])


def test_without_a_home_there_are_the_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept, other = private.places("name")
    assert kept == tmp_path / "flatdiff" / "name"
    assert other.parent == private.Path(tempfile.gettempdir())
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and passwd
    assert private.places("name") == [other]
