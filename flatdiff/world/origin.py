"""Where a file comes from: the command, program, machine and moment, for records to say."""

import datetime
import os
import shlex
import socket
import subprocess
import sys
from typing import Any

import torch

from .. import __version__
from . import dist_util


def origin() -> dict[str, Any]:
    """Command line, versions, flatdiff's commit (None: not run from its repository), ranks, device,
    host, process and time, as plain values."""
    return {
        "command": shlex.join(sys.argv),
        "flatdiff": __version__,
        "commit": commit(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "ranks": dist_util.world_size(),
        "device": device(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
    }


def device() -> str:
    """cpu, or the name of this rank's GPU."""
    where = dist_util.dev()
    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type


def commit() -> str | None:
    """The commit of the repository that this package lies at the top of, with a + behind it where
    its files were changed since; None where there is none, or no git."""
    package = os.path.dirname(os.path.dirname(__file__))
    try:
        hashed, prefix = _git(package, "rev-parse", "HEAD", "--show-prefix").split("\n")[:2]
        if prefix != "flatdiff/":  # another project's, in whose folder we are installed
            return None
        changed = _git(package, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return hashed + ("+" if changed.strip() else "")


def _git(folder: str, *words: str) -> str:
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    how = {"capture_output": True, "text": True, "timeout": 10, "check": True, "env": env}
    return subprocess.run(["git", "-C", folder, *words], **how).stdout
