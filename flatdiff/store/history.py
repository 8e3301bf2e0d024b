"""config.json by steps: a run that was stopped and gone on may have other flags from there on.

The file has the newest flags by group, and under "history" a stretch for each start: "from" which
step and "to" which, where and by what it ran, and its "flags" where the next stretch has others.
A checkpoint of step N is of the last stretch that begins before N. Knows no files.
"""

from typing import Any

HISTORY = "history"
GROUPS = set("run data train model diffusion classifier super_res quant evaluation".split())


def at(config: dict[str, Any], step: int | None) -> dict[str, Any]:
    """The flags by group that made the checkpoint of a step, and what else the file has; None: the
    newest. A file without a history has one set of flags for all steps."""
    newest = {k: v for k, v in config.items() if k != HISTORY}
    known = config.get(HISTORY, [])
    if step is None or not known:
        return newest
    held = known[known.index(stretch(config, step)) :]
    flags = next((s["flags"] for s in held if "flags" in s), newest)
    return {k: v for k, v in newest.items() if k not in flags and not _is_group(v)} | flags


def stretch(config: dict[str, Any], step: int) -> dict[str, Any]:
    """The stretch that made the checkpoint of a step; {} where there is no history."""
    known = config.get(HISTORY, [])
    return next((s for s in reversed(known) if s["from"] < step), known[0] if known else {})


def gone_on(before: dict[str, Any], step: int, now: dict[str, Any], about: dict) -> dict[str, Any]:
    """The content of config.json for a run that goes on at the step, or begins at 0.

    before: that of the run gone on from, {} if there is none. now: the flags by group, and what
    else there is. about: what the stretch says of itself. Stretches that end before they have saved
    anything are forgotten.
    """
    known = [s for s in before.get(HISTORY, []) if s["from"] < step]
    if before and step and not known:  # a file without a history
        known = [{"from": 0}]
    if known:
        was = {k: v for k, v in at(before, step).items() if _is_group(v)}
        flags = {} if was == {k: v for k, v in now.items() if _is_group(v)} else {"flags": was}
        known[-1] = {k: v for k, v in known[-1].items() if k != "flags"} | {"to": step} | flags
    return now | {HISTORY: [*known, {"from": step, "to": None} | about]}


def _is_group(value: Any) -> bool:
    return isinstance(value, dict)


def checked(config: dict[str, Any]) -> None:
    """ValueError unless groups of flags are such, and the history is one that `gone_on` made."""
    for name in sorted(GROUPS & config.keys()):
        if not _is_group(config[name]):
            raise ValueError(f"its {name} is {config[name]!r:.80}; expected flags, by name")
    known = config.get(HISTORY, [])
    fits = isinstance(known, list) and all(
        isinstance(s, dict)
        and type(s.get("from")) is int
        and isinstance(s.get("flags", {}), dict)
        and all(map(_is_group, s.get("flags", {}).values()))
        for s in known
    )
    if not fits:
        raise ValueError(
            f"its {HISTORY} is {known!r:.80}; expected a list of stretches, each with its "
            "first step: delete that entry, and all steps are of the newest flags"
        )
