"""A record of measurements in a folder is replaced by one of the same settings and models alone.

More models may come to it, and more of what it has parts of: sigmas, moves, draws. Its parts stay
known whatever happens to it, so a refusal costs nothing.
"""

import os
from collections.abc import Iterator
from typing import Any

from ..flags import config, keys
from ..flags.parse import parts
from ..store import checkpoint

GROUPS = config.FlatnessFlags, config.PerturbedFlags, config.ExposureBenchFlags
PARTS = {name for name, what in keys.changes(GROUPS).items() if what == "parts"}
NOT_ASKED = ("torch", "device")  # what settings have beside flags


def refuse_to_replace(path: str, settings: dict, models: list[str] = (), kind: str = "") -> None:
    """ValueError where the json holds a record, under `kind` if given, of other settings, or of
    models whose files are not among the paths."""
    known = checkpoint.load_json(path) if checkpoint.exists(path) else {}
    known = known.get(kind, {}) if kind and isinstance(known, dict) else known
    if not isinstance(known, dict) or not isinstance(known.get("settings"), dict):
        return
    told = [f"--{k} was {was!r} and is {now!r}" for k, was, now in _other(known, settings)]
    lost = list(_lost(known.get("models", []), models)) if models else []
    told += [f"{name} is not measured now" for name in lost]
    if told:
        more = ", give those models too" if lost else ""
        raise ValueError(
            f"{os.path.abspath(path)} has {kind or 'a record'} of another measurement, which would "
            f"be lost: {'; '.join(told)}. Give another --log_dir{more}, or move that file away"
        )


def _other(known: dict, settings: dict) -> Iterator[tuple[str, Any, Any]]:
    old, new = (dict(_flat(s)) for s in (known["settings"], settings))
    for name in old.keys() & new.keys() - {*NOT_ASKED}:
        was, now = old[name], new[name]
        if name == "data_dir":
            was, now = os.path.abspath(was), os.path.abspath(now)
        if was != now and not (name in PARTS and _grows(was, now)):
            yield name, was, now


def _grows(was: Any, now: Any) -> bool:
    """Whether all that there was is there still: of a list, or of a number of things."""
    if isinstance(was, str) and isinstance(now, str):
        return bool(was) and {*parts(was)} <= {*parts(now)}
    return type(was) is type(now) is int and was <= now


def _flat(settings: dict) -> Iterator[tuple[str, Any]]:
    """Flags by name; of one that two groups have, the first group's, as on the command line."""
    for name, value in reversed(settings.items()):
        yield from _flat(value) if isinstance(value, dict) else [(name, value)]


def _lost(known: list, paths: list[str]) -> Iterator[str]:
    """The models of the record that are in none of the files."""
    files = [path for path in paths if os.path.isfile(path)]
    hashes = {checkpoint.sha256(path) for path in files} if known else set()
    for model in known:
        here = model.get("sha256") in hashes if model.get("sha256") else model.get("path") in paths
        if not here:
            yield model.get("path") or model.get("name")
