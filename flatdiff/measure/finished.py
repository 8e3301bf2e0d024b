"""What a long measurement has finished, kept on disk so that an interrupted one goes on.

A task is a key and a function that gives plain values; its key names everything that they depend
on. Ranks take tasks in turn, and all of them get all results.
"""

import glob
import json
import os
import zlib
from typing import Any

from ..bars import Bar
from ..store.disk import naming
from ..world import dist_util, logger, stopping
from .frame import Task

GO_ON = "and the same command goes on from there"


class Finished:
    """Keeps results by key, as JSON lines in `folder`, a file for each rank, or without a folder
    for itself; shows a bar, unless `hidden`. As a context, it says where things stand if it is
    stopped."""

    def __init__(self, folder: str, hidden: bool = False):
        self.folder = folder
        self.path = os.path.join(folder, f"rank{dist_util.rank()}.jsonl")
        if folder:
            os.makedirs(folder, exist_ok=True)
        known = _read(folder) if folder and dist_util.rank() == 0 else {}
        self.known: dict[str, Any] = dist_util.broadcast_object(known)
        self.bar = Bar(total=0, desc="measuring", unit="task", disable=hidden)

    def expect(self, count: int) -> None:
        """Make the bar longer by so many tasks."""
        self.bar.total += count
        self.bar.refresh()

    def compute(self, tasks: dict[str, Task], together: bool = False, of: str = "") -> list:
        """Return the results of the tasks, in their order; only those not known yet are computed.

        Each rank takes every n-th of n ranks; with `together` all do every task, which needs them
        all. `of`: what all their keys are of, and begin with.
        """
        tasks = {f"{of} {key}".lstrip(): task for key, task in tasks.items()}
        todo = [key for key in tasks if key not in self.known]
        if known := len(tasks) - len(todo):
            logger.log(f"{known} results are known already, from {self.folder}")
            self.expect(-known)
        ranks, mine = (1, 0) if together else (dist_util.world_size(), dist_util.rank())
        new = {}
        for first in range(0, len(todo), ranks):
            turn = todo[first : first + ranks]
            if mine < len(turn):
                with self.bar.part(len(turn)):
                    new[turn[mine]] = tasks[turn[mine]]()
                if not together or dist_util.rank() == 0:
                    self._write(turn[mine], new[turn[mine]])
        for results in dist_util.all_gather_object(new):
            self.known |= results
        return [self.known[key] for key in tasks]

    def _write(self, key: str, value: Any) -> None:
        if not self.folder:
            return
        with naming(self.path), open(self.path, "a") as file:
            line = [key, value, _checksum(key, value)]
            file.write("\n" + json.dumps(line))  # a kill may have left half a line before

    def __enter__(self) -> "Finished":
        if self.folder:
            stopping.keeps(f"what is finished stays in {os.path.abspath(self.folder)}, {GO_ON}")
        return self

    def __exit__(self, kind, *_) -> None:
        self.bar.close()
        if kind is None:
            stopping.keeps("")
        if kind is KeyboardInterrupt and self.folder:
            logger.log(f"what is finished stays in {self.folder}: the same command goes on there")


def _read(folder: str) -> dict[str, Any]:
    known = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "rank*.jsonl"))):
        with open(path, errors="replace") as file:
            for line in filter(str.strip, file):
                try:
                    key, value, *told = json.loads(line)
                    if told in ([], [_checksum(key, value)]):  # none: of an earlier version
                        known[key] = value
                except (ValueError, TypeError, RecursionError):  # half a line, or no result
                    continue
    return known


def _checksum(key: str, value: Any) -> int:
    return zlib.crc32(json.dumps([key, value]).encode())
