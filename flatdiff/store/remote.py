"""Files, local or remote: blobfile's names, by the system's own calls for a local path, and by
blobfile, which is imported only then, for one with :// (gs://, az://)."""

import glob as globs
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import IO, Any, NamedTuple


class Stat(NamedTuple):
    """What blobfile, too, tells of a file: bytes, and seconds since 1970."""

    size: int
    mtime: float


def is_remote(path: str) -> bool:
    """Whether blobfile has to open it."""
    return "://" in path


def is_error(error: BaseException) -> bool:
    """Whether blobfile says so: it is the user's to mend."""
    loaded = sys.modules.get("blobfile")
    return loaded is not None and isinstance(error, loaded.Error)


def cloud(path: str) -> ModuleType:
    """Return blobfile. ValueError where it is not installed."""
    try:
        import blobfile
    except ImportError:
        raise ValueError(f"{path} is remote, which takes: pip install blobfile") from None
    return blobfile


def _either(name: str, local: Callable) -> Callable:
    def call(path: str, *more: Any) -> Any:
        return getattr(cloud(path), name)(path, *more) if is_remote(path) else local(path, *more)

    return call


def _stat(path: str) -> Stat:
    found = os.stat(path)
    return Stat(found.st_size, found.st_mtime)


exists: Callable[[str], bool] = _either("exists", os.path.exists)
isdir: Callable[[str], bool] = _either("isdir", os.path.isdir)
join: Callable[..., str] = _either("join", os.path.join)
dirname: Callable[[str], str] = _either("dirname", os.path.dirname)
listdir: Callable[[str], Iterator[str]] = _either("listdir", os.listdir)
scandir: Callable[[str], Iterator] = _either("scandir", os.scandir)
glob: Callable[[str], Iterator[str]] = _either("glob", globs.iglob)
stat: Callable[[str], Stat] = _either("stat", _stat)
remove: Callable[[str], None] = _either("remove", os.remove)
BlobFile: Callable[..., IO] = _either("BlobFile", open)


def copy(path: str, to: str, overwrite: bool = False) -> None:
    """Copy a remote file."""
    cloud(path).copy(path, to, overwrite=overwrite)
