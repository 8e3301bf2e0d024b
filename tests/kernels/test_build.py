"""C++ that is compiled at first use: kept, compiled anew where it must be, and done without."""

import shutil
import sys

import pytest
from launch import run

from flatdiff.kernels import build

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler"
)
SEVEN = 'extern "C" int seven() { return 7; }'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flatdiff"


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


def test_half_a_library_is_compiled_anew(cache, source):
    build.load([source])
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-100])
    assert build.load([source]).seven() == 7
    assert kept.read_bytes() == whole


def test_where_nothing_can_be_kept(source, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert build.load([source]).seven() == 7


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
