"""The lock of a folder: one run of a kind (training, sampling, ...) writes into it at a time.

A lock is a file, .KIND.lock, that says which process holds it and is touched every BEAT seconds. A
process of this host that is gone loses it at once; one of another host, when it has not touched it
for SILENT seconds. Remote folders (gs://) have no locks. Knows nothing of what is written.
"""

import atexit
import contextlib
import datetime
import fcntl
import glob
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator

from .disk import is_remote, naming

BEAT, SILENT = 10.0, 120.0  # seconds; a shared file system may show a touch a minute late
HALF = 2.0  # seconds after which a file with half a holder in it is a dead one's
_held: dict[str, "_Lock"] = {}


def take(folder: str, kind: str, *, lost: Callable[[str], None] | None = None, wait=False) -> None:
    """Hold the folder's lock of this kind until the end of a `scope`, or of the process.

    ValueError, which says who holds it, if a living process does; with `wait`, it is waited for.
    `lost`: called with a sentence, in a thread of its own, if another host has taken the lock of
    this process, which was silent for too long. A second call by one process does nothing.
    """
    path = os.path.join(folder, f".{kind}.lock")
    if is_remote(folder) or _own(path):
        return
    os.makedirs(folder, exist_ok=True)
    me = _me()
    while not _created(path, me):
        there = _read(path)
        if there is None:  # let go of just now
            continue
        if not _alive(path, there):
            _remove(path, there)
        elif wait:
            time.sleep(min(1.0, BEAT))
        else:
            raise ValueError(_refusal(folder, kind, there))
    _held[path] = _Lock(me["token"], lost)
    _Beats.begin()


@contextlib.contextmanager
def scope() -> Iterator[None]:
    """A context that lets go of the locks taken in it."""
    before = {*_held}
    try:
        yield
    finally:
        _release(_held.keys() - before)


def release() -> None:
    """Let go of all locks of this process."""
    _release([*_held])


def others(folder: str) -> list[str]:
    """What else is being written into the folder: a text for each lock of another process."""
    found = []
    for path in [] if is_remote(folder) else glob.glob(f"{glob.escape(folder)}/.*.lock"):
        there = None if _own(path) else _read(path)
        if there and _alive(path, there):
            found.append(f"{os.path.basename(path)[1:-5]} by {_who(there)}")
    return found


class _Lock:
    def __init__(self, token: str, lost: Callable[[str], None] | None):
        self.token, self.lost, self.pid = token, lost, os.getpid()


class _Beats(threading.Thread):
    """Touches the files of all locks of this process, as long as it lives."""

    of = 0  # the process that has it: threads are not forked

    @classmethod
    def begin(cls) -> None:
        if cls.of != os.getpid():
            cls.of = os.getpid()
            cls(daemon=True).start()

    def run(self) -> None:
        while True:
            for path, held in [*_held.items()]:
                _beat(path, held)
            time.sleep(BEAT)


def _beat(path: str, held: _Lock) -> None:
    there = _read(path)
    if there and there["token"] != held.token and _held.get(path) is held:
        del _held[path]
        if held.lost:
            held.lost(
                f"this run was silent for more than {SILENT:.0f} s, so its folder was taken over: "
                f"{path} is held by {_who(there)}, which goes on, and this run ends"
            )
    elif _held.get(path) is held:
        with contextlib.suppress(OSError):  # a folder that is away for a while
            os.utime(path)


def _own(path: str) -> bool:
    """Whether this very process holds it: a forked child does not."""
    return path in _held and _held[path].pid == os.getpid()


def _release(paths: Iterable[str]) -> None:
    for path in [*paths]:
        own, held = _own(path), _held.pop(path)
        if own and (_read(path) or {}).get("token") == held.token:
            with contextlib.suppress(OSError):
                os.remove(path)


def _me() -> dict:
    """What a lock says of this process."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "place": _place(),
        "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": shlex.join(sys.argv),
        "token": uuid.uuid4().hex,
    }


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since this machine was: ids are used again. None for one
    that is gone, or has ended and is only not buried yet; "" for one of which no more is known."""
    with contextlib.suppress(OSError, IndexError):
        with open(f"/proc/{pid}/stat") as file:
            state, *numbers = file.read().rpartition(")")[2].split()
        return None if state in "ZX" else numbers[18]
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:  # another user's
        pass
    return ""


def _place() -> list[str]:
    """What processes that see each other by their ids have in common: host, boot and namespace."""
    boot = pids = ""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        pids = os.readlink("/proc/self/ns/pid")
    return [socket.gethostname(), boot, pids]


def _created(path: str, me: dict) -> bool:
    """Whether the file was made by this call, which is atomic, on NFS too."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with naming(path), open(descriptor, "w") as file:
            json.dump(me, file)
    except BaseException:  # a full disk
        os.remove(path)
        raise
    return True


def _read(path: str) -> dict | None:
    """What the lock says; {} for one that says nothing, None where there is none."""
    try:
        with open(path) as file:
            there = json.load(file)
        fits = isinstance(there, dict) and all(type(there[k]) is type(v) for k, v in _me().items())
        return there if fits else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RecursionError):
        return {}


def _alive(path: str, there: dict) -> bool:
    """Whether its holder lives, which may take up to SILENT seconds to know of another host's."""
    with contextlib.suppress(FileNotFoundError):
        if not there:  # being written, or its writer was killed
            return _touched(path, HALF)
        if there["place"] == _place():
            return _started(there["pid"]) in ("", there["started"])
        return _touched(path, SILENT)
    return False


def _touched(path: str, silent: float) -> bool:
    """Whether the file is touched before it has been left alone for so many seconds, by the clock
    of its file system, since hosts' clocks differ."""
    first = _time_of(path)
    deadline = time.monotonic() + silent - max(0.0, _now(path) - first)
    while time.monotonic() < deadline:
        time.sleep(min(1.0, silent / 10))
        if _time_of(path) != first:
            return True
    return False


def _time_of(path: str) -> float:
    with open(path) as file:  # which makes NFS ask the server
        return os.fstat(file.fileno()).st_mtime


def _now(path: str) -> float:
    new = f"{path}.{uuid.uuid4().hex}"
    try:
        with open(new, "w") as file:
            return os.fstat(file.fileno()).st_mtime
    finally:
        with contextlib.suppress(OSError):
            os.remove(new)


def _remove(path: str, there: dict) -> None:
    """Deletes a dead one's lock; of several that do so at once none deletes the next one's."""
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        with contextlib.suppress(OSError):  # a file system without such locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)) and _read(path) == there:
            os.remove(path)


def _who(there: dict) -> str:
    return "process {pid} on host {host} since {since} ({command})".format(**there)


def _refusal(folder: str, kind: str, there: dict) -> str:
    stop = f", stop it (kill {there['pid']} on {there['host']})" if there else ""
    who = _who(there) if there else "a process that has not said yet which it is"
    return (
        f"{os.path.abspath(folder)} is in use: {kind} by {who}. Wait until it ends{stop}, or give "
        "another --log_dir"
    )


atexit.register(release)
