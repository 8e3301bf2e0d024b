"""What a kept result depends on, as text: all flags, but those that say at their definition that
they change nothing of it, and those of training, of which the checkpoint speaks.

A name that two groups share is one flag, and the first of them says what it is, as on the command
line. Files are not known by their paths but by what is in them: whoever makes a key adds those.
"""

import dataclasses
import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from . import parse

ASIDE = {"result": ("nothing",), "part": ("nothing", "parts")}  # of it: see flags.flag


def changes(groups: Iterable) -> dict[str, str]:
    """What each flag of the groups (or of their classes) says that it changes."""
    fields = [field for group in groups for field in dataclasses.fields(group)]
    return {field.name: field.metadata["changes"] for field in reversed(fields)}


def names(groups: Iterable, of: str) -> set[str]:
    """The flags that a whole "result" depends on, or each "part" of it that is kept for itself."""
    return {name for name, what in changes(groups).items() if what not in ASIDE[of]}


def values(flags: SimpleNamespace, of: str) -> dict[str, dict[str, Any]]:
    """The flags of a parsed command line that count, as plain dicts by group."""
    groups = {title: group for title, group in vars(flags).items() if title != "train"}
    kept = names(filter(dataclasses.is_dataclass, groups.values()), of)
    plain = parse.to_dict(SimpleNamespace(**groups)).items()
    return {title: {k: v for k, v in group.items() if k in kept} for title, group in plain}


def key(flags: SimpleNamespace, of: str, **made_of: Any) -> str:
    """JSON of `values`, and of what else it is made of: hashes of files, versions, ..."""
    return json.dumps({"flags": values(flags, of), **made_of}, sort_keys=True)
