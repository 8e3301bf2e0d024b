"""Ranks end together: when one dies, by whatever cause, the others do within moments.

Rank 0 keeps a connection to every other rank until all have said goodbye. One that closes before
is a rank that died, by kill -9 too. Not every launcher does this: MPICH's mpirun goes on when a
rank exits with an error. A host that vanished, or a cut link, is noticed too. Knows nothing of
torch; needs a function by which all ranks get rank 0's address.
"""

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, NoReturn

import blobfile as bf

from .. import bars
from ..store import lock
from . import launcher, signing

SILENCE = 23  # seconds after which a host that answers nothing counts as gone
PATIENCE = 60  # seconds for ranks that have just met to call rank 0
PEER_FAILED = "stopped because another rank failed"
_SIGNS_OF_A_DEAD_PEER = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe"),  # gloo
    *("remote process exited", "Connection was likely closed"),  # nccl, the store of rank 0
)
_SIGNS_OF_NO_MEMORY = "MemoryError", "can't allocate memory", "size calculation over"
TOLD = (ValueError, OSError, FloatingPointError, MemoryError, bf.Error)  # for the user to mend

_ending = threading.Lock()


class Lifeline(threading.Thread):
    """Ends this process when another rank has died, also out of a collective or a long loop."""

    def __init__(
        self, rank: int, world_size: int, host: str, share: Callable[[Any], Any], secret: str
    ):
        """All ranks come here together; `host` is the name of rank 0's, given on rank 0. `secret`:
        of the ranks; whoever does not know it takes no rank's place."""
        super().__init__(daemon=True)
        self.rank = rank
        self.peers: dict[socket.socket, str] = {}  # to who is at its other end
        if world_size > 1 and rank == 0:
            with socket.create_server((host if host == "127.0.0.1" else "", 0)) as server:
                share([host, server.getsockname()[1], socket.gethostname()])
                self.peers = _called(server, world_size - 1, secret)
        elif world_size > 1:
            *address, name = share(None)
            line = socket.create_connection(tuple(address), PATIENCE)
            line.sendall(signing.signed(secret, rank, socket.gethostname()).encode() + b"\n")
            self.peers = {line: f"rank 0 on host {name}"}
        for line in self.peers:
            _keep_asking(line)
        self.start()

    def run(self) -> None:
        waiting = list(self.peers)
        while waiting:
            for peer in connection.wait(waiting):
                try:
                    said = peer.recv(1)
                except ConnectionError:  # the other host's system says that the process is gone
                    said = b""
                except OSError as error:
                    told = _silent(self.peers[peer], error)
                    end(self.rank, told, 1, launcher.interrupt_mpirun)
                if not said:
                    end(self.rank, PEER_FAILED, 1)
                waiting.remove(peer)

    def goodbye(self) -> None:
        """Returns when every rank has come here, however long it takes."""
        if self.rank == 0:
            self.join()
        for peer in self.peers:
            peer.sendall(b"!")
        self.join()


def _called(server: socket.socket, count: int, secret: str) -> dict[socket.socket, str]:
    """The lines of so many ranks, and who they are; others that call are sent away."""
    found: dict[socket.socket, str] = {}
    server.settimeout(PATIENCE)
    while len(found) < count:
        line, _ = server.accept()
        line.settimeout(PATIENCE / 10)
        try:
            with line.makefile("rb") as file:
                rank, host = signing.opened(secret, file.readline(1000))
            found[line] = f"rank {rank} on host {host}"
        except (OSError, ValueError):
            line.close()
    return found


def _keep_asking(line: socket.socket) -> None:
    """From now on a line waits for ever, unless the other host does not answer for `SILENCE`."""
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": SILENCE - 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    options["TCP_USER_TIMEOUT"] = 1000 * SILENCE  # of a goodbye that is not confirmed
    for name, value in options.items():
        if hasattr(socket, name):  # as on Linux
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _silent(who: str, error: OSError) -> str:
    """What to say of a line that is cut."""
    return (
        f"{who} has gone silent: nothing has come from that host for {SILENCE} s "
        f"({error.strerror}). Is it down, or the network? Once it is back, the same command goes "
        "on from the last checkpoint (training: with --resume auto)"
    )


def fail(error: BaseException, rank: int, world_size: int) -> NoReturn:
    """Tells the error on stderr and ends this process, and by that the other ranks'."""
    if world_size == 1 and isinstance(error, SystemExit):
        raise error
    text, code = explain(error)
    if world_size == 1:
        bars.write(text, sys.stderr)
        raise SystemExit(code) from None
    if text and rank > 0:
        time.sleep(0.3)  # an error that all ranks share is told by rank 0 alone
    end(rank, text, code)


def explain(error: BaseException) -> tuple[str, int]:
    """What to print about an error, and the exit code."""
    if isinstance(error, SystemExit):
        return ("", error.code) if isinstance(error.code, int) else (str(error.code), 1)
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C", 130
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS_OF_A_DEAD_PEER):
        return PEER_FAILED, 1
    if isinstance(error, RuntimeError) and "Timed out waiting" in text:
        return f"waited in vain for the other ranks ({text})", 1
    told = isinstance(error, TOLD)
    if any(sign in text for sign in _SIGNS_OF_NO_MEMORY):
        first = text.partition("\n")[0]
        text, told = f"{first[:200]} (not enough memory: take fewer images at a time)", True
    if os.environ.get("FLATDIFF_DEBUG") == "1" or not told:
        text = "".join(traceback.format_exception(error)).rstrip()
    return text, 1


def end(rank: int, text: str, code: int, last: Callable[[], None] | None = None) -> NoReturn:
    """Prints, does what is to be done `last`, and leaves: alone none can unwind a collective."""
    _ending.acquire()  # and never released: one thread tells the end, another one waits for it
    lock.release()
    if text:
        bars.write(f"rank {rank}: {text}", sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if last:
        last()
    os._exit(code)
