"""Paths of any kind by the names of blobfile: a local one by the system's own calls, and one with
:// (gs://, az://) by blobfile, which is asked for only then."""

import os
from types import ModuleType
from typing import Any


class Error(Exception):
    """What went wrong with a remote path, where blobfile is there to say so."""


def is_remote(path: str) -> bool:
    """Whether blobfile has to open it."""
    return "://" in path


def blobfile(path: str) -> ModuleType:
    """blobfile, for the path. ValueError where it is not installed."""
    try:
        import blobfile
    except ImportError:
        raise ValueError(
            f"{path} is in a cloud, which takes blobfile: pip install blobfile"
        ) from None
    return blobfile


def BlobFile(path: str, mode: str = "r") -> Any:
    """The opened file."""
    return blobfile(path).BlobFile(path, mode) if is_remote(path) else open(path, mode)


def _either(name: str, local):
    def call(path: str, *more):
        return getattr(blobfile(path), name)(path, *more) if is_remote(path) else local(path, *more)

    call.__name__, call.__doc__ = name, f"As {local.__module__}.{local.__name__}."
    return call


exists = _either("exists", os.path.exists)
isdir = _either("isdir", os.path.isdir)
join = _either("join", os.path.join)
dirname = _either("dirname", os.path.dirname)
listdir = _either("listdir", os.listdir)
remove = _either("remove", os.remove)
stat = _either("stat", os.stat)
scandir = _either("scandir", os.scandir)
