"""Command lines <-> frozen dataclasses: what a flag is, and how flags are read.

A group is a frozen dataclass of `flag(default, help)` fields; `parse` makes one command line of
several groups. A name that two groups share is one flag, and each group keeps its own default.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import os
import shlex
import sys
from types import SimpleNamespace

from .. import __version__
from . import choices
from .choices import EXPECTED
from .files import at_home, nameless, words
from .presets import PRESETS

HUGE = 1e38  # of the numbers that fp32 holds
PASTED = "Flags of other scripts, taken so that they can be pasted; not read here"
LARGEST = 2**63 - 1  # of the integers that tensors and seeds are made of
_checking = False


def flag(
    default,
    help,
    *,
    choices=None,
    table=None,
    many=False,
    low=None,
    high=None,
    fixed=False,
    later=False,
    changes="numbers",
):
    """A field that is a flag. Its type is its default's.

    `choices`: the values allowed. `table`: of the registry, what may be named, with knobs behind
    it; its help is added. `many`: several of it, separated by commas. `low`, `high`: the least and
    the greatest value allowed. `fixed`: part of what a checkpoint's network or chain is, so that a
    sampler may not contradict the value it was trained with. `later`: a fixed one that came after
    the first checkpoints: a file that does not say it means its default.
    `changes`: what another value changes, from which `keys` knows what a kept result depends on:

    - "numbers": all that is computed, as far as anybody knows
    - "meaning": that too, and what a number of a training is a number of: a run that goes on keeps
      it, unless --allow_change says otherwise
    - "sampling": how a chain is walked, of which a study leaves its trainings without
    - "parts": how many images, draws or points there are, but none of them
    - "nothing": where files are (what is in them is for a key to say), how many at a time, what is
      logged and when
    """
    metadata = {"help": help, "choices": choices, "table": table, "many": many, "low": low}
    metadata |= {"high": high, "fixed": fixed or later, "later": later, "changes": changes}
    return dataclasses.field(default=default, metadata=metadata)


fixed, later = functools.partial(flag, fixed=True), functools.partial(flag, later=True)
sampling = functools.partial(flag, changes="sampling")
part, aside, meaning = (
    functools.partial(flag, changes=what) for what in ("parts", "nothing", "meaning")
)


class Parser(argparse.ArgumentParser):
    """argparse that says what was meant, and in which file it stands."""

    reading = ""

    def error(self, message):
        if "expected one argument" in message:
            message += " (a boolean flag needs its value too, as True or False)"
        message += f" (in {self.reading})" if self.reading else ""
        if _checking:
            raise ValueError(message)
        self.exit(2, f"{self.prog}: error: {message}\n(--help lists every flag)\n")

    def parse_known_args(self, args=None, namespace=None):
        for word in sys.argv[1:] if args is None else map(str, args):
            if word.startswith("--") and word.endswith("=--"):  # argparse makes no value of it
                self.error(f"argument {word[:-3]}: got '--', expected a value")
        return super().parse_known_args(args, namespace)


class Preset(argparse.Action):
    """--preset NAME reads the flags of its string as if they stood in its place. Flags that this
    command line does not have are left out."""

    def __call__(self, parser, namespace, name, option_string=None):
        parser.parse_known_args(shlex.split(PRESETS[name]), namespace)
        namespace.presets = [*getattr(namespace, "presets", ()), name]


class Config(argparse.Action):
    """--config FILE reads the flags of a file as a preset's, but for those that were typed."""

    def __init__(self, *, groups, **how):
        super().__init__(**how)
        names = {k: [field.name for field in dataclasses.fields(g)] for k, g in groups.items()}
        self.groups = names | {"": ["preset"]}

    def __call__(self, parser, namespace, path, option_string=None):
        try:
            found = words(path, self.groups)
        except ValueError as error:
            parser.error(f"--config {error}")
        parser.reading = path
        parser.parse_known_args(found, namespace)
        parser.reading = ""
        namespace.files = [*getattr(namespace, "files", ()), path]


def parse(description, argv=None, unread="", **groups):
    """Read the command line into one frozen dataclass a group.

    Returns a namespace with an attribute a group; `given`, a dict of what was typed or stands in a
    preset or file; `typed`, the names of the first; `presets`, name -> flag string of those named;
    and `files`, those of --config. `unread`: titles of groups that are only taken, so that a string
    of flags that serves another script can be pasted.
    Exits with status 2 and one line on a flag that is unknown or malformed. A flag given twice: the
    last one wins.
    """
    print_by_lines()
    how = {"allow_abbrev": False, "argument_default": argparse.SUPPRESS}
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=description, formatter_class=raw, **how)
    help = f"published flags, read here; later ones win: {', '.join(PRESETS)}"
    parser.add_argument("--version", action="version", version=f"flatdiff {__version__}")
    parser.add_argument("--preset", action=Preset, choices=PRESETS, metavar="NAME", help=help)
    help = "flags of a yaml or json, as config.json of a run; what is typed wins over it"
    parser.add_argument("--config", action=Config, groups=groups, metavar="FILE", help=help)
    known = set()
    for title, group in groups.items():
        section = parser.add_argument_group(title, PASTED if title in unread.split() else None)
        for field in dataclasses.fields(group):
            if field.name not in known:
                known.add(field.name)
                reader = functools.partial(read, field)
                section.add_argument(f"--{field.name}", type=reader, **_told(field))
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown(unknown[0], known))
    given = vars(namespace)
    presets = {name: PRESETS[name] for name in given.pop("presets", ())}
    files, typed = given.pop("files", []), given
    if presets or files:
        typed = vars(parser.parse_known_args(_typed(argv))[0])
        given |= typed if files else {}
    values = {k: group_of(g, given) for k, g in groups.items()}
    told = {"given": given, "typed": set(typed), "presets": presets, "files": files}
    told["unread"] = unread.split()
    return SimpleNamespace(**told, **values)


def print_by_lines():
    """What is printed into a file or a pipe is there at once, in one order with stderr's."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)


def _typed(argv):
    """The command line as if no --preset or --config had been named."""
    argv, named = sys.argv[1:] if argv is None else argv, {"--preset", "--config"}
    pairs = zip(argv, ["", *argv])
    return [w for w, before in pairs if not named & {w.partition("=")[0], before}]


def run(description, body, check=None, unread="", **groups):
    """A script: `body` of the flags of its command line, with the ranks set up. In a block of
    `checking` it is `check` of them, which raises ValueError for what would fail later."""
    flags = parse(description, unread=unread, **groups)
    from . import idle

    if _checking:
        idle.check(flags)
        if check:
            check(flags)
        return
    if flags.run.deterministic:  # which cuBLAS reads once, at its first product
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from ..store import lock
    from ..world import dist_util, stopping

    with dist_util.session(), lock.scope():
        stopping.limit(flags.run.max_hours)
        idle.check(flags)
        body(flags)


@contextlib.contextmanager
def checking():
    """A block in which scripts check what they are told, and do nothing else; a command line that
    cannot be read is a ValueError there."""
    global _checking
    _checking = True
    try:
        yield
    finally:
        _checking = False


def group_of(group, values):
    """The group with those of `values` that it knows."""
    names = {field.name for field in dataclasses.fields(group)}
    return group(**{k: v for k, v in values.items() if k in names})


def as_trained(group, trained, given, source):
    """The group for use with a checkpoint: what it is was fixed in training, the rest is given.
    `trained`: the checkpoint's values; `given`: what was typed. Raises ValueError where a given
    flag contradicts what the network or the chain is."""
    trained = checked(group, trained, source)
    own = {f.name for f in dataclasses.fields(group) if f.metadata["fixed"]} & trained.keys()
    for name in sorted(own & given.keys()):
        if trained[name] != given[name]:
            raise ValueError(
                f"--{name} {given[name]!r} contradicts the checkpoint, which was trained with "
                f"--{name} {trained[name]!r} ({source}). Leave the flag out, or give the "
                "checkpoint that it belongs to."
            )
    return group_of(group, given | {name: trained[name] for name in own})


def checked(group, values, source):
    """The values of a group as a file tells them; ValueError where no flag could have said so.
    Flags that came later than the file are added, with their defaults."""
    if not isinstance(values, dict):
        raise ValueError(f"{source} has {values!r:.80} where the flags of {group.__name__} belong")
    for field in dataclasses.fields(group):
        if field.name in values:
            value, kind = values[field.name], type(field.default)
            fits = type(value) is kind or (kind is float and type(value) is int)
            problem = _outside(field, value) if fits else f"expected {EXPECTED[kind]}"
            if problem:
                raise ValueError(
                    f"{field.name} is {value!r:.80} in {source}, {problem}: mend that file, or "
                    "move it away and give the flags"
                )
    new = {f.name: f.default for f in dataclasses.fields(group) if f.metadata["later"]}
    return new | values if values else values


def parts(text):
    """What stands between the commas of a text, without blanks around it and without empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(name, text, expected, fits=lambda number: True, *, kind=float, empty=False):
    """The numbers of the flag's text, as 0.1,0.5. ValueError, with what is `expected`, where a part
    is no number of that kind or does not fit, and for no numbers unless it may be empty."""
    with contextlib.suppress(ValueError):
        found = [choices.number(kind, part) for part in parts(text)]
        if (found or empty) and all(map(fits, found)):
            return found
    raise ValueError(f"--{name} is {text!r}; expected {expected}")


def to_dict(flags):
    """All groups of a parsed command line as plain nested dicts, for config.json."""
    return {k: dataclasses.asdict(v) for k, v in vars(flags).items() if dataclasses.is_dataclass(v)}


def read(field, text):
    """Text -> the field's value; the ArgumentTypeError names what is expected."""
    value = choices.read(type(field.default), text)
    value = at_home(value) if isinstance(value, str) else value
    if problem := _outside(field, value):
        raise argparse.ArgumentTypeError(f"got {text!r}, {problem}")
    return value


def _outside(field, value):
    """What is expected of the field's value, or "" if it is that."""
    names = "choices", "table", "low", "high"
    one_of, table, low, high = (field.metadata[name] for name in names)
    try:
        if one_of is not None and value not in one_of:
            choices.named(dict.fromkeys(one_of), value)
        if table is not None and value != field.default:
            for part in value.split(",") if field.metadata["many"] else [value]:
                choices.named(table, part)
    except ValueError as error:
        return str(error).partition(", ")[2]
    if isinstance(value, str) and (problem := nameless(value)):
        return problem
    if low is not None and not value >= low:
        return f"expected {low} or more"
    if high is not None and not value <= high:
        return f"expected {high} or less"
    if isinstance(value, float) and not abs(value) <= HUGE:
        return f"expected a finite number, {HUGE:g} at most"
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"expected at most {LARGEST} (2^63 - 1)"
    return ""


def _told(field):
    """What --help says of the field."""
    table = field.metadata["table"]
    names = ",".join(field.metadata["choices"] or table or ())
    kind = {bool: "BOOL", int: "N", float: "X", str: "TEXT"}[type(field.default)]
    help = field.metadata["help"] + (f". {choices.told(table)}" if table else "")
    help = f"{help} (default: {field.default!r})".replace("%", "%%")
    return {"metavar": f"{{{names}}}" if names else kind, "help": help}


def _unknown(text, known):
    if not text.startswith("-"):
        return f"{text!r} belongs to no flag (flags are --name value)"
    name = text.lstrip("-").split("=")[0]
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1, cutoff=0.5)
    near = near or [k for k in known if k.startswith(name)][:1]
    return f"unknown flag {text}" + (f"; did you mean --{near[0]}?" if near else "")
