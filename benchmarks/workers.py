"""One process for each contender: what one does to its memory or its threads helps no other.

Contenders work one at a time, each when it is called, so they do not disturb one another's clocks.
"""

import contextlib
import multiprocessing
import time
import traceback

import timing

START = multiprocessing.get_context("spawn")


class Worker:
    """A contender in its own process: `worker.call("train_step")`."""

    def __init__(self, kind: str, job):
        self.connection, theirs = START.Pipe()
        self.process = START.Process(target=_serve, args=(theirs, kind, job))
        self.process.start()
        theirs.close()

    def call(self, method: str, *args):
        """What the method returns; RuntimeError with its traceback if it raised."""
        return self._ask(method, args)[1]

    def seconds(self, method: str, *args) -> float:
        """How long the method took, as the process itself saw it."""
        return self._ask(method, args)[0]

    def _ask(self, method, args):
        try:
            self.connection.send((method, args))
            seconds, result, error = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            ended = f"ended with {self.process.exitcode}, -9 if memory did not suffice"
            raise RuntimeError(f"{self.process.name}, {method}: the process {ended}") from None
        if error:
            raise RuntimeError(f"{self.process.name}: {error}")
        return seconds, result

    def close(self) -> None:
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def _serve(connection, kind, job):
    """The loop of a worker: until the other end is closed."""
    import peers

    with peers.opened(kind, job) as peer, contextlib.suppress(EOFError):
        while True:
            method, args = connection.recv()
            connection.send(_answer(peer, method, args, job.device))


def _answer(peer, method, args, device):
    start = time.perf_counter()
    try:
        result = getattr(peer, method)(*args)
        timing.synchronize(device)
    except Exception:
        return 0.0, None, traceback.format_exc()
    return time.perf_counter() - start, result, None
