"""Folders and files that are this user's alone, for code that is loaded and for what ranks of one
host tell each other: whatever others of the machine could have written is refused.

Knows nothing of what is in them. Where users are not numbers (Windows), nothing is checked.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def places(name: str) -> list[Path]:
    """Where a folder of this name may be: in the user's cache, if there is a home, and among the
    temporary files."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    kept = [] if base.startswith("~") else [Path(base, "flatdiff", name)]
    return [*kept, Path(tempfile.gettempdir(), f"flatdiff-{_user()}-{name}")]


def first_of(folders: Iterable[Path], notes: list[str] | None = None) -> Path:
    """The first of these folders that is ours alone, made if need be; what is wrong with those
    before it is added to the notes.

    OSError, with what is wrong with each of them, where none is.
    """
    wrong = [] if notes is None else notes
    for folder in folders:
        try:
            os.makedirs(folder.parent, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _check(os.lstat(folder), folder, stat.S_ISDIR, "a folder")
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise OSError(f"{folder} cannot be written")
            return folder
        except OSError as error:
            wrong.append(f"{folder}: {error.strerror}" if error.errno else str(error))
    raise OSError("; ".join(wrong))


def reading(path: Path) -> BinaryIO:
    """The file at `path`, open; OSError where it is no file of ours alone, or a symbolic link."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        _check(os.fstat(handle), path, stat.S_ISREG, "a file")
        return open(handle, "rb")
    except OSError:
        os.close(handle)
        raise


def write(path: Path, content: bytes) -> None:
    """A new file of ours alone, which appears complete or not at all; OSError leaves nothing."""
    handle, part = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # of mode 0600
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _check(found: os.stat_result, path: Path, is_kind: Callable[[int], bool], kind: str) -> None:
    if not is_kind(found.st_mode):
        raise OSError(f"{path} is not {kind}, but a link or something else: remove it")
    if os.name == "posix" and found.st_uid != _user():
        raise OSError(f"{path} is another user's (uid {found.st_uid}, not {_user()})")
    if os.name == "posix" and found.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(found.st_mode)
        raise OSError(f"others may write to {path} (mode {mode:04o}): chmod go-w it")


def _user() -> int:
    return os.geteuid() if os.name == "posix" else 0
