"""Files: written whole or not at all, and errors that name their file.

A full disk names no file by itself, and what a decoder says of a damaged one seldom does. Knows
nothing of what is in the files.
"""

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterator
from typing import IO

from . import remote as bf
from .remote import is_remote

PART = ".flatdiff-part"  # ends the name of a file that is still being written


@contextlib.contextmanager
def writing(path: str, mode: str = "wb", **how) -> Iterator[IO]:
    """A new file that is at `path` once the block has ended; until then the old one is.

    OSError, with the path, where the disk does not take it: the old file stays as it was. A link
    stays one, to the new file. Devices and pipes, which another file must not take the place of,
    are written into; a remote file (gs://, az://) is made of bytes alone.
    """
    if is_remote(path):  # an object appears when its upload is finished
        buffer = io.BytesIO()
        yield buffer
        with bf.BlobFile(path, "wb") as file:
            file.write(buffer.getvalue())
        return
    if os.path.exists(path) and not os.path.isfile(path):
        with naming(path), open(path, mode, **how) as file:
            yield file
        return
    path = os.path.realpath(path) if os.path.islink(path) else path
    part = f"{path}{PART}"
    try:
        with naming(path):
            with open(part, mode, **how) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            _sync_folder(path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise


def _sync_folder(path: str) -> None:
    """Let the names in the path's folder survive a power cut, too."""
    if os.name == "posix":  # Windows has no such call
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def move(path: str, to: str) -> None:
    """Give a file another name in its folder, in place of any that has it."""
    if is_remote(path):
        bf.copy(path, to, overwrite=True)
        bf.remove(path)
        return
    os.replace(path, to)
    _sync_folder(to)


class Hashed:
    """A file that is written into, and the SHA-256 of all that was."""

    def __init__(self, file: IO):
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write_csv(rows: list[dict], path: str) -> str:
    """A table of the rows' keys, in the order in which they come; returns the absolute path."""
    with writing(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return os.path.abspath(path)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """A context in which an OSError of no file, or of one that is to become `path`, names `path`.

    Also one that hides behind what its handling raised: torch.save cannot close its archive on a
    full disk, and says so instead.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error
        while cause and not (isinstance(cause, OSError) and cause.errno):
            cause = cause.__context__
        if cause is None or not str(cause.filename or path).startswith(path):
            raise
        raise OSError(cause.errno, cause.strerror, path) from error


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """A context in which what goes wrong with a file's content is a ValueError that names it."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and path in str(error):
            raise
        if isinstance(error, ValueError):
            raise ValueError(f"{path}: {error}") from error
        reason = str(error).strip().partition("\n")[0] or "no more is known"
        raise ValueError(
            f"{path} is damaged, or of another kind ({type(error).__name__}: {reason[:200]})"
        ) from error
