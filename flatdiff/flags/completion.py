"""What a shell completes behind `flatdiff`: commands, their flags, and what these may be."""

import argparse
import ast
from collections.abc import Callable
from pathlib import Path
from unittest import mock


def script(shell: str, scripts: dict[str, Path], start: Callable[[Path], None]) -> str:
    """What the shell is to read, for these scripts by their commands, of which "data digits" is one
    of a command's own. `start` runs a script. ValueError without shtab, which writes it, and for
    a shell that it does not know.
    """
    try:
        import shtab
    except ImportError as error:
        raise ValueError(
            "--print-completion needs shtab, which is not installed: pip install "
            "'flatdiff[completion]'"
        ) from error
    if shell not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shtab.SUPPORTED_SHELLS)
        raise ValueError(f"--print-completion is {shell!r}; expected one of {known}")
    whole = argparse.ArgumentParser("flatdiff")
    whole.add_argument("--version", action="store_true", help="say which version this is")
    about = "write what the shell is to read"
    whole.add_argument("--print-completion", choices=shtab.SUPPORTED_SHELLS, help=about)
    places = {"": whole.add_subparsers(parser_class=lambda own, **_: own)}
    for command, path in scripts.items():
        above, _, name = command.rpartition(" ")
        if above not in places:
            about = f"{above} NAME: one of several"
            group = places[""].add_parser(above, own=argparse.ArgumentParser(), help=about)
            places[above] = group.add_subparsers(parser_class=lambda own, **_: own)
        about = ast.get_docstring(ast.parse(path.read_text())).split("\n")[0]
        own = parser_of(path, start)
        for action in own._actions:
            action.choices = action.choices or _choices(action.metavar or "")
            if action.nargs != 0 and not action.choices and action.metavar not in ("N", "X"):
                action.complete = shtab.FILE
        places[above].add_parser(name, own=own, help=about)
    return shtab.complete(whole, shell)


def parser_of(path: Path, start: Callable[[Path], None]) -> argparse.ArgumentParser:
    """The parser that a script makes; it is stopped there."""

    def stop(parser, *_, **__):
        raise _MadeError(parser)

    try:
        with mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop):
            start(path)
    except _MadeError as made:
        return made.args[0]
    raise AssertionError(f"{path} reads no flags")


class _MadeError(BaseException):
    """A script has made its parser."""


def _choices(metavar: str) -> list[str] | None:
    """What --help names in place of a flag's value: {a,b}, or BOOL."""
    if metavar.startswith("{"):
        return metavar.strip("{}").split(",")
    return ["True", "False"] if metavar == "BOOL" else None
