"""Files that are either whole or absent, and where they are kept."""

import os
from collections.abc import Callable
from typing import BinaryIO


def default_cache_dir() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "flatdiff")


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
