"""Ranks end together: when one dies, by whatever cause, the others do within moments.

Rank 0 keeps a connection to every other rank until all have said goodbye. One that closes before
is a rank that died, by kill -9 too. Not every launcher does this: MPICH's mpirun goes on when a
rank exits with an error. A host that vanished, or a cut link, is noticed too, and a rank that is
asked to stop asks the others. Knows nothing of torch; is given how all get rank 0's address.
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

from .. import bars
from ..store import lock, remote
from . import launcher, signing, stopping

SILENCE = 23  # seconds after which a host that answers nothing counts as gone
PATIENCE = 60  # seconds for ranks that have just met to call rank 0
PEER_FAILED = "stopped because another rank failed"
_SIGNS_OF_A_DEAD_PEER = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe"),  # gloo
    *("remote process exited", "Connection was likely closed"),  # nccl, the store of rank 0
)
_SIGNS_OF_NO_MEMORY = "MemoryError", "can't allocate memory", "size calculation over"
TOLD = (ValueError, OSError, FloatingPointError, MemoryError)  # for the user to mend

GOODBYE, SAID = b"goodbye", b"said"  # and all else is who asked to stop
LAST_WORDS = 3.0  # seconds for the main thread to end by itself where all ranks were asked to

_ending = threading.Lock()
_peers: list[connection.Connection] = []  # of this process's lifeline


class Lifeline(threading.Thread):
    """Ends this process when another rank has died, also out of a collective or a long loop."""

    def __init__(
        self, rank: int, world_size: int, host: str, share: Callable[[Any], Any], secret: str
    ):
        """All ranks come here together; `host` is the name of rank 0's, given on rank 0. `secret`:
        of the ranks; whoever does not know it takes no rank's place."""
        super().__init__(daemon=True)
        self.rank = rank
        self.kills = _kills_for_memory()
        self.peers: dict[connection.Connection, str] = {}  # to who is at its other end
        lines: dict[socket.socket, str] = {}
        if world_size > 1 and rank == 0:
            with socket.create_server((host if host == "127.0.0.1" else "", 0)) as server:
                share([host, server.getsockname()[1], _here()])
                lines = _called(server, world_size - 1, secret)
        elif world_size > 1:
            *address, name = share(None)
            line = socket.create_connection(tuple(address), PATIENCE)
            line.sendall(signing.signed(secret, rank, _here()).encode() + b"\n")
            lines = {line: f"rank 0 on host {name}"}
        for line, name in lines.items():
            _keep_asking(line)
            self.peers[connection.Connection(line.detach())] = name
        _peers[:] = self.peers
        stopping.connect(lambda by: say(by.encode()))
        self.start()

    def run(self) -> None:
        waiting = list(self.peers)
        while waiting:
            for peer in connection.wait(waiting):
                said = b""
                try:
                    said = peer.recv_bytes()
                except EOFError:
                    pass
                except OSError as error:
                    if text := _silent(self.peers[peer], error):
                        end(self.rank, text, 1, launcher.interrupt_mpirun)
                if said in (b"", SAID):
                    self._end(self.peers[peer], bool(said))
                elif said == GOODBYE:
                    waiting.remove(peer)
                else:
                    stopping.ask(said.decode())

    def _end(self, name: str, said: bool) -> NoReturn:
        """Follows a rank that has ended. `said`: it has told of an error."""
        if stopping.asked() and not said:
            time.sleep(LAST_WORDS)
            end(self.rank, "", stopping.farewell())
        why = "it crashed, or was killed, as the kernel does for want of memory (see dmesg)"
        if _kills_for_memory() > self.kills:
            why = "the kernel has killed for want of memory (take fewer images at a time)"
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


def _here() -> str:
    return f"{socket.gethostname()} (process {os.getpid()})"


def _called(server: socket.socket, count: int, secret: str) -> dict[socket.socket, str]:
    """The lines of so many ranks, and who they are; others that call are sent away."""
    found: dict[socket.socket, str] = {}
    server.settimeout(PATIENCE)
    while len(found) < count:
        line, _ = server.accept()
        line.settimeout(PATIENCE / 10)
        try:
            with line.makefile("rb", buffering=0) as file:  # what follows is not for this
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
    """What to say of a line that is cut; "" where its system tells that the process is gone."""
    if isinstance(error, ConnectionError):
        return ""
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
    told = isinstance(error, TOLD) or remote.is_error(error)
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
    with contextlib.suppress(OSError, ValueError):  # nobody reads it: a terminal that was closed
        if text:
            bars.write(f"rank {rank}: {text}", sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    if code != stopping.CODE:
        say(SAID)
    if last:
        last()
    os._exit(code)
