"""Trackers: stand-ins of the packages, and where they are installed what these keep offline."""

import struct
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from flatdiff.flags import choices
from flatdiff.world import logger

BLOCK = 1 << 15
PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
ROWS = [{"step": s, "loss": 1 / s, "time": "2026-11-26 10:00:00"} for s in (10, 20)]


def track(folder, text, goes_on=False, rows=ROWS, **config):
    """A log of these rows and a picture, in a tracker."""
    logger.configure(str(folder), [])
    logger.also(choices.bound(choices.TRACKERS, text)(str(folder), config, goes_on=goes_on))
    for row in rows:
        logger.logkvs(row)
        logger.dumpkvs()
    logger.picture("samples", PICTURE, rows[-1]["step"])
    logger.reset()


@pytest.fixture
def stand_in(monkeypatch):
    """A function that puts a package in place, and what is called of it."""

    def put(name):
        calls, package = [], ModuleType(name)
        package.Image = lambda image: ("image", image.shape)
        package.finish = lambda: calls.append(("finish",))
        run = SimpleNamespace(
            log=lambda row, **how: calls.append(("log", row, how)),
            define_metric=lambda *of, **how: calls.append(("define", of, how)),
        )
        package.init = lambda **how: calls.append(("init", how)) or run
        monkeypatch.setitem(sys.modules, name, package)
        return calls

    return put


def test_wandb_is_told_all_against_our_step_and_goes_on_under_its_id(tmp_path, stand_in):
    calls, folder = stand_in("wandb"), tmp_path / "adam"
    track(folder, "wandb project=mine", lr=0.1)
    about = {"project": "mine", "name": "adam", "dir": str(folder), "config": {"lr": 0.1}}
    (_, how), defined, *logged, last = calls
    assert how == about | {"id": None, "resume": "allow", "settings": {"console": "off"}}
    assert defined == ("define", ("*",), {"step_metric": "step"}) and last == ("finish",)
    picture = {"samples": ("image", (4, 4, 3)), "step": 20}
    assert logged == [("log", row, {}) for row in [*ROWS, picture]]
    for run in ("run-20260102_000000-newer", "offline-run-20260101_000000-older"):
        (folder / "wandb" / run).mkdir(parents=True)
    track(folder, "wandb", goes_on=True)
    assert calls[len(logged) + 3][1]["id"] == "newer"


def test_trackio_is_told_the_step_beside_the_row(tmp_path, stand_in):
    calls = stand_in("trackio")
    track(tmp_path / "adam", "trackio")
    track(tmp_path / "adam", "trackio", goes_on=True)
    begun = [how["resume"] for kind, how, *_ in (c for c in calls if c[0] == "init")]
    assert begun == ["never", "allow"]
    rows = [("log", {"loss": row["loss"]}, {"step": row["step"]}) for row in ROWS]
    assert calls[1:4] == [*rows, ("log", {"samples": ("image", (4, 4, 3))}, {"step": 20})]


@pytest.mark.parametrize("name", choices.TRACKERS)
def test_what_is_not_installed_or_cannot_begin_is_told_in_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"--tracker {name} .*pip install 'flatdiff\[{name}\]'"):
        track(tmp_path, name)

    def init(**_):
        raise RuntimeError("no key")

    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init))
    with pytest.raises(ValueError, match=f"--tracker {name} could not begin: no key"):
        track(tmp_path, name)


def records(data):
    """What is in a log of LevelDB's format, behind the 7 bytes of its header."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    track(tmp_path / "adam", "wandb", lr=0.1)
    more = [{"step": 30, "loss": 0.5}]
    track(tmp_path / "adam", "wandb", goes_on=True, rows=more)
    files = sorted(
        tmp_path.glob("adam/wandb/offline-run-*/*.wandb"), key=lambda f: f.stat().st_mtime
    )
    runs, history = [], []
    for file in files:
        for record in map(Record.FromString, records(file.read_bytes())):
            if record.HasField("run"):
                runs.append((record.run.run_id, record.run.project, record.run.display_name))
            if record.HasField("history"):
                items = record.history.item
                history.append({i.key or i.nested_key[0]: i.value_json for i in items})
    assert len({*runs}) == 1 and runs[0][1:] == ("flatdiff", "adam")
    told = [(int(h["step"]), float(h["loss"])) for h in history if "loss" in h]
    assert told == [(row["step"], row["loss"]) for row in ROWS + more]
    assert sum("samples" in h for h in history) == 2
    assert (
        len(list(tmp_path.glob("adam/wandb/offline-run-*/files/media/images/samples_*.png"))) == 2
    )


@pytest.mark.slow
def test_trackio_keeps_it_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    track(tmp_path / "adam", "trackio project=mine", lr=0.1)
    track(tmp_path / "adam", "trackio project=mine", goes_on=True, rows=[{"step": 30, "loss": 0.5}])
    logs = SQLiteStorage.get_logs("mine", "adam")
    told = [(row["step"], row["loss"]) for row in logs if "loss" in row]
    assert told == [(10, 0.1), (20, 0.05), (30, 0.5)]
    assert sum("samples" in row for row in logs) == 2
