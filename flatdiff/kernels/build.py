"""Our C++ for the CPU, compiled on this machine at first use and kept in the user's cache.

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

from ..store import private
from . import calls, noise, norm

NAMES = "norm", "conv", "int8", "noise"
SOURCES = [Path(__file__).with_name(f"{name}_kernel.cpp") for name in NAMES]
FLAGS = (
    "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC".split()
)
COMPILERS = "g++", "c++"
notes: list[str] = []  # on why `use` could not take the library that was kept, or keep one
_HASH = hashlib.sha256().digest_size


@functools.cache
def use() -> str:
    """Install what can be compiled, unless FLATDIFF_KERNELS=0; returns a few words for the log."""
    if os.environ.get("FLATDIFF_KERNELS") == "0":
        return "PyTorch's kernels (FLATDIFF_KERNELS=0)"
    try:
        _check_threads()
        install(load(SOURCES, notes))
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


def load(sources: Sequence[Path], notes: list[str] | None = None) -> ctypes.CDLL:
    """The library made of some sources; they are compiled unless that was done before.

    notes: what should be known of a library that was not kept, or not taken, is added to them.

    :raises OSError: no compiler, or it fails; the message says what it said.
    """
    notes = [] if notes is None else notes
    compiler = _compiler()
    name = f"kernels-{_key(compiler, sources)}.so"
    try:
        kept = private.first_of(private.places("kernels"), notes) / name
    except OSError:
        notes.append("compiled at each start")
        kept = None
    if kept and kept.exists():
        try:
            return _kept(kept)
        except OSError as error:
            notes.append(f"compiled anew: {error}")
    with tempfile.TemporaryDirectory() as folder:
        made = _compile(compiler, sources, Path(folder) / name)
        with contextlib.suppress(OSError):  # a folder whose files must not be run
            if kept and _keep(made.read_bytes(), kept, notes):
                return _kept(kept)
        return ctypes.CDLL(str(made))


def _kept(path: Path) -> ctypes.CDLL:
    """The library in a file of ours that ends with its own hash: loading anything else would run
    what another user wrote, and half a library is a bus error. Else OSError."""
    with private.reading(path) as file:
        content = file.read()
        if hashlib.sha256(content[:-_HASH]).digest() != content[-_HASH:]:
            raise OSError(f"{path} is damaged")
        # The very file that was read, whatever bears its name now. Its number stays taken: given to
        # another library, it would be a name that the linker knows, for this one.
        same = f"/proc/self/fd/{os.dup(file.fileno())}"
        return ctypes.CDLL(same if os.path.exists(same) else str(path))


def _keep(content: bytes, path: Path, notes: list[str]) -> bool:
    """Whether the library could be kept; ranks that compile at the same time do no harm."""
    try:
        private.write(path, content + hashlib.sha256(content).digest())
    except OSError as error:
        notes.append(f"compiled at each start: {path} cannot be kept ({error.strerror})")
        return False
    return True


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
