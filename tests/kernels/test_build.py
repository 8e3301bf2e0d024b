"""C++ that is compiled at first use: kept, compiled anew where it must be, and done without."""

import os
import shutil
import sys
import tempfile

import pytest
from launch import run

from flatdiff.kernels import build
from flatdiff.store import private

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler"
)
SEVEN = 'extern "C" int seven() { return 7; }'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "cache" / "flatdiff" / "kernels"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "seven.cpp"
    path.write_text(SEVEN)
    return path


def test_a_library_is_compiled_once(cache, source, monkeypatch):
    assert build.load([source]).seven() == 7
    (kept,) = cache.iterdir()
    monkeypatch.setattr(build, "_compile", None)
    assert build.load([source]).seven() == 7
    assert list(cache.iterdir()) == [kept]


@pytest.mark.parametrize("change", ["source", "FLAGS", "_instructions"])
def test_whatever_it_depends_on_makes_another(cache, source, monkeypatch, change):
    build.load([source])
    if change == "source":
        source.write_text(SEVEN.replace("return 7", "return 8"))
    elif change == "FLAGS":
        monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-DX"])
    else:
        monkeypatch.setattr(build, "_instructions", lambda: "those of another processor")
    assert build.load([source]).seven() == (8 if change == "source" else 7)
    assert len(list(cache.iterdir())) == 2


EIGHT = SEVEN.replace("return 7", "return 8")
DAMAGES = {  # of a library's bytes: a planted one, with the end of the good one, is still of 7
    "half": lambda whole, _: whole[:-100],
    "zeroed bytes": lambda whole, _: whole[:4096] + bytes(512) + whole[4608:],
    "a flipped bit": lambda whole, _: whole[:999] + bytes([whole[999] ^ 1]) + whole[1000:],
    "planted": lambda whole, other: other[:-32] + whole[-32:],
    "empty": lambda whole, _: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_library_whose_hash_does_not_fit_is_compiled_anew(cache, source, tmp_path, damage):
    build.load([source])
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    (tmp_path / "eight.cpp").write_text(EIGHT)
    build.load([tmp_path / "eight.cpp"])
    (other,) = set(cache.iterdir()) - {kept}
    kept.unlink()  # it is mapped: what is written into it would be run
    kept.write_bytes(DAMAGES[damage](whole, other.read_bytes()))
    notes = []
    assert build.load([source], notes).seven() == 7
    assert notes == [f"compiled anew: {kept} is damaged"]
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("planted", ["may write", "symbolic links", "another user's"])
def test_a_library_that_others_could_write_is_not_loaded(
    cache, source, tmp_path, monkeypatch, planted
):
    """It is whole, and computes 8: what was asked for computes 7."""
    build.load([source])
    (kept,) = cache.iterdir()
    (tmp_path / "eight.cpp").write_text(EIGHT)
    build.load([tmp_path / "eight.cpp"])
    (other,) = set(cache.iterdir()) - {kept}
    other.replace(kept)
    assert build.load([source]).seven() == 8  # of ours we believe that it is what its name says
    if planted == "symbolic links":
        kept.rename(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere")
    elif planted == "may write":
        kept.chmod(0o666)
    elif os.geteuid() == 0:
        os.chown(kept, 65534, 65534)
    else:
        pytest.skip("only root can make another user's file")
    notes = []
    assert build.load([source], notes).seven() == 7
    assert planted in notes[0]
    notes.clear()
    assert build.load([source], notes).seven() == 7 and not notes


def test_a_folder_that_others_may_write_is_not_used(cache, source):
    build.load([source])
    cache.chmod(0o777)
    notes = []
    assert build.load([source], notes).seven() == 7
    assert notes == [f"others may write to {cache} (mode 0777): chmod go-w it"]
    (other,) = cache.parents[2].glob("tmp/flatdiff-*-kernels/*")  # kept among our temporary files
    assert other.name == next(cache.iterdir()).name


def test_where_nothing_can_be_kept(cache, source, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    places = private.places("kernels")
    monkeypatch.setattr(private, "places", lambda name: places[:1])
    notes = []
    assert build.load([source], notes).seven() == 7
    assert "/dev/null" in notes[0] and notes[1:] == ["compiled at each start"]


def test_on_a_full_disk_it_runs_and_leaves_nothing(cache, source, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    notes = []
    assert build.load([source], notes).seven() == 7
    assert "No space left" in notes[0] and not list(cache.iterdir())


def test_a_compilers_error_is_told(cache, source):
    source.write_text("int seven() { return sevn; }")
    with pytest.raises(OSError, match=r"failed: .*seven.cpp:1:22: error: .*sevn"):
        build.load([source])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "C++ kernels\n"),
        ({"FLATDIFF_KERNELS": "0"}, "PyTorch's kernels (FLATDIFF_KERNELS=0)\n"),
        ({"PATH": "/nowhere"}, "slower (no C++ compiler: none of g++, c++ is on the PATH"),
        ({"CXX": "nothing"}, "slower (no C++ compiler: CXX=nothing is not on the PATH"),
        ({"CXX": "false"}, "false failed: exit code 1)\n"),
    ],
)
def test_what_is_used_is_said(environment, words):
    code = "from flatdiff.kernels import build, calls; print(build.use())"
    code += "; print(calls.library() is not None)"
    done = run([sys.executable, "-c", code], **environment)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert done.stdout.splitlines()[-1] == str(not environment)


def test_threads_of_another_kind_are_left_alone(monkeypatch):
    monkeypatch.setattr(build.Path, "read_text", lambda path: "/usr/lib/libiomp5.so")
    assert "has not GNU's OpenMP" in build.use.__wrapped__()
