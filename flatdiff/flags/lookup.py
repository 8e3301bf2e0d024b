"""What a table's entry is, and how a text as "name knob=value" finds one.

Tables are in `choices`, under whose name all of this is known too. Nothing here imports torch.
"""

import argparse
import dataclasses
import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

BOOLEANS = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(
    ("no", "false", "f", "n", "0"), False
)
EXPECTED = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Choice:
    """`where`: "module:name", the module in flatdiff; imported when it is used."""

    where: str
    help: str

    def load(self) -> Any:
        """What stands there."""
        module, _, name = self.where.partition(":")
        home = importlib.import_module(f".{module}", __package__.rpartition(".")[0])
        return functools.reduce(getattr, name.split("."), home)


Table = Mapping[str, Choice]


def told(table: Table) -> str:
    """The choices as a flag's help."""
    return "; ".join(f"{name}: {choice.help}" for name, choice in table.items())


def named(table: Table, text: str) -> tuple[str, dict[str, str]]:
    """Text as "adam-sam rho=0.1" -> ("adam-sam", {"rho": "0.1"}); ValueError for a name that is
    not in the table, and for what is no knob."""
    name, *knobs = text.split() or [""]
    if name not in table:
        near = difflib.get_close_matches(name, table, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"got {name!r}, expected one of {', '.join(table)}{hint}")
    pairs = [knob.partition("=") for knob in knobs]
    if bad := [knob for knob, (k, _, v) in zip(knobs, pairs) if not (k and v)]:
        raise ValueError(f"got {bad[0]!r} behind {name}, expected knob=value")
    return name, {k: v for k, _, v in pairs}


def entry(table: Table, text: str) -> Any:
    """The table's Choice that the text names."""
    return table[named(table, text)[0]]


def bound(table: Table, text: str) -> Callable:
    """What the text names, called with its knobs."""
    function, knobs = chosen(table, text)
    return functools.partial(function, **knobs)


def knobs(table: Table, name: str) -> dict[str, Any]:
    """The knobs of what has the name, with their defaults."""
    parameters = inspect.signature(table[name].load()).parameters.values()
    return {p.name: p.default for p in parameters if type(p.default) in EXPECTED}


def chosen(table: Table, text: str, given: Iterable[str] = ()) -> tuple[Any, dict[str, Any]]:
    """What the text names, and its knobs as values; ValueError for a knob that it does not have.

    `given`: arguments that the caller gives itself, by flags of their own, which are no knobs.
    """
    name, texts = named(table, text)
    known = {knob: value for knob, value in knobs(table, name).items() if knob not in given}
    values = {}
    for knob, value in texts.items():
        if knob not in known:
            of = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{name} has no knob {knob!r}; {of}")
        try:
            values[knob] = read(type(known[knob]), value)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{name}, {knob}: {error}") from None
    return table[name].load(), values


def number(kind: type, text: str) -> Any:
    """kind(text) of digits that all readers know; ValueError for 1_0, and for those of others."""
    if kind is not str and ("_" in text or not text.isascii()):
        raise ValueError(f"{text!r} is no number")
    return kind(text)


def read(kind: type, text: str) -> Any:
    """Text -> a value of the kind; ArgumentTypeError says what is expected."""
    try:
        return BOOLEANS[text.lower()] if kind is bool else number(kind, text)
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {EXPECTED[kind]}") from None
