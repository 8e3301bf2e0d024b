"""Where sentences and tables of a log go: terminal, text, CSV, JSON lines, TensorBoard.

A table is a dict of numbers and strings; "step" in it counts the optimizer steps done.
Files are complete at any moment, and go on after a kill.
"""

import csv
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import bars
from ..store.disk import naming, reading, writing


class Output:
    """One place for sentences, tables or both."""

    def say(self, text: str) -> None: ...

    def write(self, row: dict[str, Any]) -> None: ...

    def picture(self, key: str, image: Any, step: int) -> None: ...

    def truncate(self, step: int) -> None: ...

    def close(self) -> None: ...


class Text(Output):
    """Writes for people: on stdout, beside progress bars, or in a file."""

    def __init__(self, path: Path | None):
        self.path = path

    def say(self, text: str) -> None:
        if self.path:
            safe = {"encoding": "utf-8", "errors": "backslashreplace"}
            with naming(str(self.path)), open(self.path, "a", **safe) as file:
                file.write(text + "\n")
        else:
            code = getattr(sys.stdout, "encoding", None) or "utf-8"  # ascii, in some terminals
            text = text.encode(code, "backslashreplace").decode(code)
            bars.write(text, sys.stdout)

    def write(self, row: dict[str, Any]) -> None:
        shown = {_cut(key): _cut(_show(row[key])) for key in sorted(row, key=str.lower)}
        left, right = (max(map(len, side), default=0) for side in (shown, shown.values()))
        rule = "-" * (left + right + 7)
        lines = [f"| {key:{left}} | {text:{right}} |" for key, text in shown.items()]
        self.say("\n".join([rule, *lines, rule]))


def _show(value: Any) -> str:
    whole = isinstance(value, int) or not hasattr(value, "__float__")
    return str(value) if whole else f"{float(value):<8.3g}"


def _cut(text: str) -> str:
    return text if len(text) <= 30 else text[:27] + "..."


class Csv(Output):
    """Writes a row for each table; a key that comes late becomes a new last column."""

    def __init__(self, path: Path, append: bool):
        self.path, self.keys = path, []
        if append and _mend(path):
            with reading(str(path)):
                self.keys = list(csv.DictReader(path.read_text().splitlines()).fieldnames)

    def write(self, row: dict[str, Any]) -> None:
        late = sorted(row.keys() - set(self.keys))
        if late:
            old = self._read() if self.keys else []
            self.keys += late
            self._rewrite(old)
        with naming(str(self.path)), open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.keys, lineterminator="\n").writerow(row)

    def truncate(self, step: int) -> None:
        if self.keys:
            with reading(str(self.path)):
                kept = [row for row in self._read() if not _after(row, step)]
            self._rewrite(kept)

    def _read(self) -> list[dict[str, str]]:
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: Iterable[dict[str, str]]) -> None:
        with writing(str(self.path), "w", newline="") as file:
            writer = csv.DictWriter(file, self.keys, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


class Json(Output):
    """Writes an object, on a line of its own, for each table."""

    def __init__(self, path: Path, append: bool):
        self.path, self.mode = path, "a" if append and _mend(path) else "w"

    def write(self, row: dict[str, Any]) -> None:
        with naming(str(self.path)), open(self.path, self.mode) as file:
            file.write(json.dumps(row) + "\n")
        self.mode = "a"

    def truncate(self, step: int) -> None:
        if self.mode == "a":
            with reading(str(self.path)):
                lines = self.path.read_text().splitlines(keepends=True)
                kept = [line for line in lines if not _after(json.loads(line), step)]
            _replace(self.path, "".join(kept))


class TensorBoard(Output):
    """Writes events; the package is imported with the first table or picture, as that takes
    seconds."""

    def __init__(self, folder: Path, append: bool):
        try:
            str(folder).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"TensorBoard cannot write to {folder}, whose name is not UTF-8 here: choose "
                "another log_dir, a UTF-8 locale, or OPENAI_LOG_FORMAT=stdout,log,csv,json"
            ) from error
        self.folder, self.append = folder, append
        self.purge_step = self.writer = None

    def write(self, row: dict[str, Any]) -> None:
        writer = self._writer()
        for key, value in row.items():
            if hasattr(value, "__float__"):
                writer.add_scalar(key, float(value), row.get("step"))
        writer.flush()

    def picture(self, key: str, image: Any, step: int) -> None:
        writer = self._writer()
        writer.add_image(key, image, step, dataformats="HWC")
        writer.flush()

    def _writer(self):
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            old = list(self.folder.glob("events.out.tfevents.*"))
            if self.append:
                _wait_for_a_later_name([path.name.split(".")[3] for path in old])
            else:
                for path in old:
                    path.unlink()
            self.writer = SummaryWriter(str(self.folder), purge_step=self.purge_step)
        return self.writer

    def truncate(self, step: int) -> None:
        self.purge_step = step + 1

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def _after(row: dict[str, Any], step: int) -> bool:
    return float(row.get("step") or 0) > step


def _wait_for_a_later_name(seconds: list[str]) -> None:
    """TensorBoard reads files in the order of their names, which begin with the second: of two in
    one second, the later may come first, and what is purged would stay. A file from the future, of
    another clock, is not waited for."""
    newest = max((int(text) for text in seconds if text.isdigit()), default=0)
    while -3 < time.time() - newest < 1:
        time.sleep(0.05)


def _mend(path: Path) -> bool:
    """Cuts off a last line that a kill left incomplete; True if anything is there to go on with."""
    text = path.read_bytes() if path.exists() else b""
    if text and not text.endswith(b"\n"):
        text = text[: text.rfind(b"\n") + 1]
        _replace(path, text.decode())
    return bool(text)


def _replace(path: Path, text: str) -> None:
    """The file holds the old text or the new one at any moment."""
    with writing(str(path), "w", newline="") as file:
        file.write(text)
