"""What a run says: sentences, and a table of values per interval, to several outputs at once.

Only rank 0 speaks, and warns for all; errors of the others go to stderr. A mean is over everything
that was logged since the last table, on all ranks where dumpkvs is given a sum over ranks. Values
may be tensors: they stay on their device until then. Knows nothing of what it logs.
"""

import contextlib
import datetime
import functools
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .. import bars
from . import launcher, log_outputs

DEBUG, INFO, WARN, ERROR, DISABLED = 10, 20, 30, 40, 50
FORMATS = ("stdout", "log", "csv", "json", "tensorboard")


def configure(
    dir: str | None = None,
    format_strs: Iterable[str] | None = None,
    comm: None = None,
    log_suffix: str = "",
    rank: int | None = None,
    append: bool = False,
) -> None:
    """Starts to log into a folder; every rank calls it, with the same `dir`.

    dir: default $OPENAI_LOGDIR, else a new folder under the temporary directory. Where it is
    remote (gs://...) the log's own files stay local, in a folder that is told.
    format_strs: some of FORMATS; default $OPENAI_LOG_FORMAT, else all (tensorboard only where
    it is installed). log_suffix: goes before the extension of each file.
    append: go on with the tables that are there. Else the first table starts them anew.
    comm: not used: give dumpkvs a sum over ranks. rank: default, the launcher's.
    """
    if comm is not None:
        raise ValueError("comm is not used: give dumpkvs a sum over ranks, dumpkvs(reduce=...)")
    global _current
    reset()
    dir = os.path.expanduser(dir or os.environ.get("OPENAI_LOGDIR") or new_folder())
    _current = Logger(dir, [], launcher.find_place().rank if rank is None else rank)
    bars.hide(_current.rank > 0)
    if _current.rank == 0:
        folder = tempfile.mkdtemp(prefix="flatdiff-log-") if "://" in dir else dir
        os.makedirs(folder, exist_ok=True)
        _current.outputs = _outputs(Path(folder), format_strs, log_suffix, append)
        log(f"Logging to {dir}" + (f", tables to {folder}" if folder != dir else ""))


def new_folder() -> str:
    """The path of a folder, under the temporary directory, that is named after this moment."""
    now = datetime.datetime.now().strftime("flatdiff-%Y-%m-%d-%H-%M-%S-%f")
    return os.path.join(tempfile.gettempdir(), now)


def _outputs(folder: Path, formats, suffix: str, append: bool) -> list[log_outputs.Output]:
    if formats is None and "OPENAI_LOG_FORMAT" in os.environ:
        formats = filter(None, os.environ["OPENAI_LOG_FORMAT"].split(","))
    elif formats is None:
        formats = FORMATS if importlib.util.find_spec("tensorboard") else FORMATS[:-1]
    make = {
        "stdout": lambda: log_outputs.Text(None),
        "log": lambda: log_outputs.Text(folder / f"log{suffix}.txt"),
        "csv": lambda: log_outputs.Csv(folder / f"progress{suffix}.csv", append),
        "json": lambda: log_outputs.Json(folder / f"progress{suffix}.json", append),
        "tensorboard": lambda: log_outputs.TensorBoard(folder / f"tb{suffix}", append),
    }
    formats = list(formats)
    if unknown := set(formats) - set(FORMATS):
        raise ValueError(f"unknown log formats {sorted(unknown)}: expected some of {FORMATS}")
    return [make[name]() for name in formats]


def log(*args, level: int = INFO) -> None:
    """Says a sentence, made of the arguments as print does."""
    _current.log(*args, level=level)


debug, info, warn, error = (functools.partial(log, level=n) for n in (DEBUG, INFO, WARN, ERROR))


def caution(text: str) -> None:
    """Warns in a sentence; "" is none."""
    if text:
        warn(f"warning: {text}")


def set_level(level: int) -> None:
    """Sentences below this level are not shown."""
    _current.level = level


def logkv(key: str, val: Any) -> None:
    """Puts a value into the next table; the last one wins, and it is rank 0's."""
    _current.values[key] = val


def logkvs(values: dict[str, Any]) -> None:
    """Puts several values into the next table."""
    _current.values.update(values)


def logkv_mean(key: str, val: Any, count: Any = 1) -> None:
    """Puts `val`, itself a mean over `count` things, into the mean that the next table shows.

    Both may be 0-dim tensors, which costs no wait for the device. Where all counts are 0 the key
    is not shown. Every rank has to log the same keys.
    """
    _current.logkv_mean(key, val, count)


def getkvs() -> dict[str, Any]:
    """The next table as it stands, with the means of this rank alone."""
    return _current.row()


def dumpkvs(reduce: Callable | None = None) -> dict[str, Any]:
    """Writes the table, returns it and starts the next one.

    reduce: the sum over ranks of a float64 tensor [K, 2] of (sum, count), keys sorted; a
    collective call, so all ranks dump together. Without it means are of this rank.
    """
    return _current.dump(reduce)


record_tabular = logkv
dump_tabular = dumpkvs


@contextlib.contextmanager
def profile_kv(scopename: str):
    """A context, or a decorator, whose seconds are added to "wait_NAME" of the next table."""
    start, key = time.perf_counter(), f"wait_{scopename}"
    try:
        yield
    finally:
        logkv(key, _current.values.get(key, 0.0) + time.perf_counter() - start)


profile = profile_kv


def truncate(step: int) -> None:
    """Forgets what the tables hold after `step`: for a run that goes on from there."""
    for output in _current.outputs:
        output.truncate(step)


def picture(key: str, image: Any, step: int) -> None:
    """Shows a picture, uint8 [H, W, 3], of a step, where there is a place for pictures."""
    for output in _current.outputs:
        output.picture(key, image, step)


def also(output: log_outputs.Output) -> None:
    """Writes to this output, too; on rank 0."""
    _current.outputs.append(output)


def get_dir() -> str:
    """The folder given to configure, which is called if that was not done yet."""
    if _current.dir is None:
        configure()
    return _current.dir


def get_current() -> "Logger":
    """The Logger that all functions here speak to."""
    return _current


def reset() -> None:
    """Goes back to sentences and tables on the terminal only."""
    global _current
    for output in _current.outputs:
        output.close()
    bars.hide(False)
    _current = Logger(None, [log_outputs.Text(None)], 0)


@contextlib.contextmanager
def scoped_configure(**kwargs):
    """Logs by another configuration for a while, with configure's arguments."""
    global _current
    outer, _current = _current, Logger(None, [], 0)
    try:
        configure(**kwargs)
        yield
    finally:
        reset()
        _current = outer


class Logger:
    """Gathers values, and hands sentences and tables to the outputs."""

    def __init__(self, dir: str | None, outputs: list[log_outputs.Output], rank: int):
        self.dir, self.outputs, self.rank, self.level = dir, outputs, rank, INFO
        self.values: dict[str, Any] = {}
        self.sums: dict[str, tuple] = {}

    def log(self, *args, level: int) -> None:
        if level < self.level:
            return
        text = " ".join(map(str, args))
        for output in self.outputs:
            output.say(text)
        if self.rank > 0 and level >= ERROR:
            bars.write(f"rank {self.rank}: {text}", sys.stderr)

    def logkv_mean(self, key: str, val: Any, count: Any) -> None:
        val, count = _float64(val), _float64(count)
        total, seen = self.sums.get(key, (0.0, 0.0))
        if isinstance(count, float):
            new = val * count if count else 0.0
        else:
            new = (val * count).where(count > 0, 0.0)  # the mean of nothing may be nan
        self.sums[key] = total + new, seen + count

    def row(self, reduce: Callable | None = None) -> dict[str, Any]:
        plain = {k: v.item() if hasattr(v, "item") else v for k, v in self.values.items()}
        if not self.sums:
            return plain
        import torch

        keys = sorted(self.sums)
        flat = [x for key in keys for x in self.sums[key]]
        device = next((x.device for x in flat if not isinstance(x, float)), None)
        table = [torch.as_tensor(x, dtype=torch.float64, device=device) for x in flat]
        table = torch.stack(table).view(-1, 2)
        rows = (reduce(table) if reduce else table).tolist()
        return plain | {key: total / count for key, (total, count) in zip(keys, rows) if count}

    def dump(self, reduce: Callable | None) -> dict[str, Any]:
        row = self.row(reduce)
        self.values, self.sums = {}, {}
        for output in self.outputs:
            output.write(row)
        return row


def _float64(x: Any) -> Any:
    """The value in float64: sums of many float32 values would lose digits."""
    return x.detach().double() if hasattr(x, "detach") else float(x)


_current = Logger(None, [log_outputs.Text(None)], 0)
