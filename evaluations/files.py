"""Files that are either whole or absent, and where they are kept."""

import os
import tempfile
from collections.abc import Callable
from typing import BinaryIO


def default_cache_dir() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "flatdiff")


def write_atomically(path: str, write: Callable[[BinaryIO], None]) -> None:
    """Call `write` with a temporary file beside `path`, and move it there when it is complete."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".part-", delete=False) as file:
        try:
            write(file)
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)
