"""Ranks end together: when one dies, by whatever cause, the others do within moments.

Rank 0 keeps a connection to every other rank until all have said goodbye. One that closes before
is a rank that died, by kill -9 too. Not every launcher does this: MPICH's mpirun goes on when a
rank exits with an error. Knows nothing of torch; needs a broadcast for rank 0's address.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, NoReturn

import blobfile as bf

from .. import bars

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

    def __init__(self, rank: int, world_size: int, host: str, broadcast: Callable[[Any], Any]):
        """All ranks come here together; `host` is the name of rank 0's, given on rank 0."""
        super().__init__(daemon=True)
        self.rank = rank
        self.peers: list[connection.Connection] = []
        if world_size > 1 and rank == 0:
            bind = host if host == "127.0.0.1" else "0.0.0.0"
            with connection.Listener((bind, 0), backlog=world_size) as listener:
                broadcast((host, listener.address[1]))
                self.peers = [listener.accept() for _ in range(world_size - 1)]
        elif world_size > 1:
            self.peers = [connection.Client(broadcast(None))]
        self.start()

    def run(self) -> None:
        waiting = list(self.peers)
        while waiting:
            for peer in connection.wait(waiting):
                try:
                    peer.recv_bytes()
                except (EOFError, OSError):
                    end(self.rank, PEER_FAILED, 1)
                waiting.remove(peer)

    def goodbye(self) -> None:
        """Returns when every rank has come here, however long it takes."""
        if self.rank == 0:
            self.join()
        for peer in self.peers:
            peer.send_bytes(b"goodbye")
        self.join()


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


def end(rank: int, text: str, code: int) -> NoReturn:
    """Prints, and leaves at once: a rank alone cannot unwind a collective."""
    _ending.acquire()  # and never released: one thread tells the end, another one waits for it
    if text:
        bars.write(f"rank {rank}: {text}", sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
