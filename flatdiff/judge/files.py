"""Files that are either whole or absent, where they are kept, and what is kept there for next time.

What is kept can be computed again: a file that cannot be read, was altered, or cannot be written is
a warning, and never the end of a run.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from . import arrays

CHECKSUM = "sha256"  # the array beside the others
NAMED = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # the beginning of a file's SHA-256, as of torch.hub


def default_cache_dir() -> str:
    """The user's; "", which keeps nothing, where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return "" if base.startswith("~") else os.path.join(base, "flatdiff")


def write_atomically(path: str, write: Callable[[BinaryIO], None]) -> None:
    """Call `write` with a temporary file beside `path`, and move it there when it is complete. A
    link stays one, to the new file; a device or a pipe is written into."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            write(file)
        return
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.part-{os.getpid()}"
    try:
        with open(part, "wb") as file:
            write(file)
        os.replace(part, path)
    except BaseException as error:
        if os.path.exists(part):
            os.unlink(part)
        if isinstance(error, OSError) and error.errno:  # of a full disk, say: with no name
            raise OSError(error.errno, error.strerror, path) from error
        raise


def keep(path: str, content: Mapping[str, np.ndarray]) -> None:
    """Write arrays for `kept` to find; a warning where the disk does not take them. "": nowhere."""
    if not path:
        return
    content = {name: np.asarray(array) for name, array in content.items()}
    told = content | {CHECKSUM: np.array(_sum_of(content))}
    try:
        write_atomically(path, lambda file: np.savez(file, **told))
    except (OSError, ValueError) as error:
        warn(f"{path} is not kept for next time: {error}")


def kept(path: str) -> dict[str, np.ndarray] | None:
    """The arrays that `keep` wrote; None where there are none, and with a warning where the file is
    not as it was written."""
    try:
        if not os.path.exists(path):
            return None
        if not os.path.isfile(path):
            raise ValueError("it is no file")
        found = arrays.read(path)
        told = found.pop(CHECKSUM, np.array(""))
        if told.shape == () and str(told) == _sum_of(found):
            return found
        reason = "its checksum is wrong"
    except (OSError, ValueError, MemoryError) as error:
        reason = str(error)
    warn(f"{path} is not used, and made anew: {reason}")
    return None


def sha256(paths: Iterable[str], beginning: bytes = b"", ends: bool = False) -> str:
    """The hash of the contents of files; `ends`: and of where they end."""
    total = hashlib.sha256(beginning)
    for path in paths:
        total.update(os.path.getsize(path).to_bytes(8, "big") if ends else b"")
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def must_be_named(path: str, published: str, source: str) -> None:
    """ValueError where a file's bytes have not the hash that its name carries, as weights-HASH.pth;
    a warning where the published file's name carries another, and this one's none."""
    own, known = (NAMED.search(os.path.basename(name)) for name in (path, published))
    if not (own or known):
        return
    found = sha256([path])
    if own and not found.startswith(own[1]):
        raise ValueError(
            f"{path} is not what its name says: its SHA-256 is {found[:16]}..., expected "
            f"{own[1]}...; get it anew from {source}"
        )
    if known and not found.startswith(known[1]):
        warn(
            f"{path} is not the published {published}, so a distance on it is no one else's: its "
            f"SHA-256 is {found[:16]}..., expected {known[1]}... ({source})"
        )


def _sum_of(content: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, array in sorted(content.items()):
        total.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)
