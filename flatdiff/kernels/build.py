"""Our C++ for the CPU, compiled on this machine at first use and kept in ~/.cache/flatdiff.

It uses all instructions of this very processor, and the OpenMP threads that PyTorch has already:
those of another OpenMP, as clang's, would spin beside them on the same cores. Where nothing can be
compiled, PyTorch's own operators do the same, slower.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import calls, noise, norm

NAMES = "norm", "conv", "int8", "noise"
SOURCES = [Path(__file__).with_name(f"{name}_kernel.cpp") for name in NAMES]
FLAGS = (
    "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC".split()
)
COMPILERS = "g++", "c++"


@functools.cache
def use() -> str:
    """Install what can be compiled, unless FLATDIFF_KERNELS=0; returns a few words for the log."""
    if os.environ.get("FLATDIFF_KERNELS") == "0":
        return "PyTorch's kernels (FLATDIFF_KERNELS=0)"
    try:
        _check_threads()
        install(load(SOURCES))
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"PyTorch's kernels, which are slower ({error})"
    return "C++ kernels"


def install(library: ctypes.CDLL | None) -> None:
    """From now on layers are computed by the library; None: by PyTorch.

    :raises OSError: the library does not compute what PyTorch does; then nothing is installed.
    """
    calls.hold(library)
    if library and not (norm.agrees() and calls.conv_agrees() and noise.agrees()):
        calls.hold(None)
        raise OSError("what was compiled does not compute what PyTorch does")


def _check_threads() -> None:
    try:
        libraries = Path("/proc/self/maps").read_text()
    except OSError:
        return  # not Linux: let the compiler say
    if "libgomp" not in libraries:
        raise OSError("this PyTorch has not GNU's OpenMP, and threads of two kinds would collide")


def load(sources: Sequence[Path]) -> ctypes.CDLL:
    """The library made of some sources; they are compiled unless that was done before.

    :raises OSError: no compiler, or it fails; the message says what it said.
    """
    compiler = _compiler()
    key = _key(compiler, sources)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(cache, "flatdiff", f"kernels-{key}.so")
    end = key.encode()  # of a whole file: loading half a library is a bus error
    with contextlib.suppress(OSError):
        if path.read_bytes().endswith(end):
            return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory() as folder:
        made = _compile(compiler, sources, Path(folder) / path.name)
        with contextlib.suppress(OSError):  # not kept: compiled again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(made.read_bytes() + end)
            part.replace(path)  # ranks that compile at the same time do no harm
        return ctypes.CDLL(str(made))


def _compiler() -> str:
    named = os.environ.get("CXX")
    for name in [named] if named else COMPILERS:
        if found := shutil.which(name):
            return found
    missing = f"CXX={named} is not" if named else f"none of {', '.join(COMPILERS)} is"
    raise OSError(f"no C++ compiler: {missing} on the PATH; install one, or set CXX")


def _compile(compiler: str, sources: Sequence[Path], target: Path) -> Path:
    command = [compiler, *FLAGS, *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        error = next((line for line in said if " error: " in line), said[0])
        raise OSError(f"{compiler} failed: {error}")
    return target


def _key(compiler: str, sources: Sequence[Path]) -> str:
    """A hash of all that the library depends on: homes are shared by machines that differ."""
    parts = [*(s.read_text() for s in sources), compiler, *FLAGS, platform.machine()]
    return hashlib.sha256("\n".join([*parts, _instructions()]).encode()).hexdigest()[:16]


def _instructions() -> str:
    """What this processor can do, in the kernel's words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
