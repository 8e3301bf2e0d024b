"""Ranks end together: when one dies, by whatever cause, the others do within moments.

Rank 0 keeps a connection to every other rank until all have said goodbye. One that closes before
is a rank that died, by kill -9 too. Not every launcher does this: MPICH's mpirun goes on when a
rank exits with an error. One that is asked to stop asks the others, too. Knows nothing of torch;
needs a broadcast for rank 0's address.
"""

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any, NoReturn

import blobfile as bf
from tqdm import tqdm

from . import stopping

PEER_FAILED = "stopped because another rank failed"
_SIGNS_OF_A_DEAD_PEER = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe"),  # gloo
    *("remote process exited", "Connection was likely closed"),  # nccl, the store of rank 0
)
_SIGNS_OF_NO_MEMORY = "MemoryError", "can't allocate memory", "size calculation over"
TOLD = (ValueError, OSError, FloatingPointError, MemoryError, bf.Error)  # for the user to mend

GOODBYE, SAID = b"goodbye", b"said"  # and all else is who asked to stop
LAST_WORDS = 3.0  # seconds for the main thread to end by itself where all ranks were asked to

_ending = threading.Lock()
_peers: list[connection.Connection] = []  # of this process's lifeline


class Lifeline(threading.Thread):
    """Ends this process when another rank has died, also out of a collective or a long loop."""

    def __init__(self, rank: int, world_size: int, host: str, broadcast: Callable[[Any], Any]):
        """All ranks come here together; `host` is the name of rank 0's, given on rank 0."""
        super().__init__(daemon=True)
        self.rank = rank
        self.peers: list[connection.Connection] = []
        self.names, self.kills = ["rank 0"], _kills_for_memory()
        if world_size > 1 and rank == 0:
            bind = host if host == "127.0.0.1" else "0.0.0.0"
            with connection.Listener((bind, 0), backlog=world_size) as listener:
                broadcast((host, listener.address[1]))
                self.peers = [listener.accept() for _ in range(world_size - 1)]
            self.names = [peer.recv_bytes().decode() for peer in self.peers]
        elif world_size > 1:
            self.peers = [connection.Client(broadcast(None))]
            name = f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"
            self.peers[0].send_bytes(name.encode())
        _peers[:] = self.peers
        stopping.connect(lambda by: say(by.encode()))
        self.start()

    def run(self) -> None:
        waiting = list(self.peers)
        while waiting:
            for peer in connection.wait(waiting):
                said = b""
                with contextlib.suppress(EOFError, OSError):
                    said = peer.recv_bytes()
                if said in (b"", SAID):
                    self._end(peer, bool(said))
                elif said == GOODBYE:
                    waiting.remove(peer)
                else:
                    stopping.ask(said.decode())

    def _end(self, peer: connection.Connection, said: bool) -> NoReturn:
        """Follows a rank that has ended. `said`: it has told of an error."""
        if stopping.asked() and not said:
            time.sleep(LAST_WORDS)
            end(self.rank, "", stopping.farewell())
        why = "it crashed, or was killed, as the kernel does for want of memory (see dmesg)"
        if _kills_for_memory() > self.kills:
            why = "the kernel has killed for want of memory (take fewer images at a time)"
        name = self.names[self.peers.index(peer)]
        end(self.rank, PEER_FAILED + ("" if said else f": {name} ended without a word; {why}"), 1)

    def goodbye(self) -> None:
        """Returns when every rank has come here, however long it takes."""
        if self.rank == 0:
            self.join()
        for peer in self.peers:
            peer.send_bytes(GOODBYE)
        self.join()
        _peers.clear()


def say(what: bytes) -> None:
    """Sends it to the ranks that this one is connected to: rank 0 to all, others to rank 0."""
    for peer in _peers:
        with contextlib.suppress(OSError):
            peer.send_bytes(what)


def _kills_for_memory() -> int:
    """How many processes this host's kernel has killed so."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/vmstat").read_text().split("oom_kill ")[1].split()[0])
    return 0


def fail(error: BaseException, rank: int, world_size: int) -> NoReturn:
    """Tells the error on stderr and ends this process, and by that the other ranks'."""
    if world_size == 1 and isinstance(error, SystemExit):
        raise error
    text, code = explain(error)
    if world_size == 1:
        tqdm.write(text, file=sys.stderr)
        raise SystemExit(code) from None
    if text and (rank > 0 or text == PEER_FAILED):
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
        return ("", stopping.farewell()) if stopping.asked() else (PEER_FAILED, 1)
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
        tqdm.write(f"rank {rank}: {text}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if code != stopping.CODE:
        say(SAID)
    os._exit(code)
