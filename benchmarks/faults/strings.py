"""Malformed flag strings over all scripts: one flag of a run that is well has another text.

A third of the texts are what people type by mistake, a third are that with letters put in, doubled
or left out, the rest is noise. `is_wrong` says, apart from the project's own readers, which texts
no run may take.
"""

import argparse
import math
import random
import re
import runpy
import sys
from collections.abc import Iterator
from typing import NamedTuple

from .forked import ROOT
from .inputs import Inputs, fill

NUMBERS = (
    *"-1 0 1 3 -2 7 1e3 2.0 nan inf -inf abc 9999999999 99999999999999999999 1_0 0x10 1,5".split(),
    *("", " ", " 5 ", "+5", "-0.0", "1e-320", "1e308", "1e400", "1e39", "-1e-9", "2147483648"),
    *(
        "9223372036854775808",
        "\uff11\uff12",
        "\u0663",
        "\u00b2",
        "1 2",
        "--",
        "None",
        "[1]",
        "1.",
        ".5",
    ),
)
BOOLEANS = ("True", "False", "maybe", "", "2", "None", "TRUE ", "1.0", "yes", "N", "\uff11", "on")
LISTS = (
    *("", ",", ",,", "a", "1,,2", "-1", "0", "1.5", "nan", "inf", "1e9", "1;2", "1 2", "0.9,0.9"),
    *("1,1,1,1,1,1,1,1,1,1,1,1", "1" * 5000, "\U0001f642", "99999999999999999999", "8,4", "0,0"),
    *("1e-400", "1e400", "2,1,2", "0.5", "\uff11,2", "-0", "8 x=1", "none,8 bins=0", "8 bins=-4"),
)
TEXTS = (
    *("", " ", "abc", "\U0001f642", "a" * 5000, "\udcff", "../../x", "%s%n", "*", "[", "\n", "="),
    *(
        "-1",
        ",",
        "ddim2",
        "ddim",
        "ddim0",
        "ddim-1",
        "ddim\u00b2",
        "1,1",
        "0,0,0",
        "0",
        "3,0",
        "9" * 30,
    ),
    *("1:0", "0:1", "nan:1", "0:nan", "0:-1", "0:inf", "0:1:2", "1e300:1", "0:1e-300", "auto"),
    *("adam", "adam-sam rho=nan", "adam-sam  rho=0", "adam-sam x=1", "ddim eta=nan", "ddim eta=-1"),
    *(
        "unet a=b",
        "vit patch_size=0",
        "x=",
        "minmax,gptq group=0",
        "mse granularity=row",
        "edm rho=0",
    ),
    *("edm sigma_min=-1", "edm sigma_min=9 sigma_max=1", "flow shift=0", "noise=1e400", "noise=-1"),
    *("os:system", "builtins:exit", "nosuch:x", ":", "a:b:c", "ema rate=2", "swa window=0"),
)
PATHS = (
    *("", " ", "nowhere", "a" * 300, "x/" * 3000, "~/x", "~nobody/x", "\udcff\udcfe", "-", "a,b"),
    *(
        "*",
        "[",
        "x\x00y",
        "%s%n",
        "../" * 50 + "nowhere",
        "/dev/null",
        "/proc/self/mem",
        "\U0001f642",
    ),
    *("/proc/1/environ", "/dev/tty", "http://127.0.0.1:9/x.pt", "new\nline", "nowhere/*.pt", "."),
)
MADE = (
    "",
    " ",
    "a" * 300,
    "x\x00y",
    "~/x",
    "[x]*",
    "new\nline",
    "\u00fc \U0001f642",
    "x/" * 3000,
    "\udcff",
)
OUTPUT = {"log_dir", "out_dir", "out", "json", "cache_dir", "save_quantized", "store"}
LISTED = {"attention_resolutions", "channel_mult", "classifier_attention_resolutions", "ema_rate"}
LISTED |= {"sigma", "radius", "class_labels", "sampling_steps", "bits", "rho", "input_pertub"}
LISTED |= {
    "layer_bits",
    "activations",
    "chain_steps",
    "weight_bits",
    "scalings",
    "lengths",
    "rates",
}
PATH = re.compile(r".*(_dir|_path|_data|_weights|samples|checkpoint|init_from|runs|reference|lmdb)")
ASIDE = {"help", "version", "job"}  # print, or do what another program's file says


class Flag(NamedTuple):
    """kind: bool, int, float, list, path, out or text; choices: names allowed, or none."""

    name: str
    kind: str
    choices: tuple[str, ...]


class Text(NamedTuple):
    """A run with a text in a flag's place; wrong: no run may take it."""

    script: str
    words: list[str]
    told: str
    wrong: bool


class _Read(BaseException):
    """The script has come to its command line."""


def flags_of(script: str) -> list[Flag]:
    """Its flags, from the parser that it reads its command line by."""

    def stop(parser, *_, **__):
        raise _Read(parser)

    whole, argparse.ArgumentParser.parse_known_args = (
        argparse.ArgumentParser.parse_known_args,
        stop,
    )
    argv, sys.argv = sys.argv, [script]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except _Read as read:
        actions = read.args[0]._actions
    finally:
        argparse.ArgumentParser.parse_known_args, sys.argv = whole, argv
    return [
        Flag(a.dest, _kind(a), tuple(map(str, a.choices or ())))
        for a in actions
        if a.option_strings and a.dest not in ASIDE
    ]


def _kind(action) -> str:
    told = getattr(action.type, "args", (None,))[0]  # of functools.partial(read, a field or type)
    kind = getattr(told, "__name__", "") or (told and type(told.default).__name__)
    own = {"positive": "int", "int": "int", "boolean": "bool", "whole": "int"}
    kind = kind or own.get(getattr(action.type, "__name__", ""), "str")
    if kind != "str":
        return kind
    if action.dest in OUTPUT:
        return "out"
    return next((k for k, yes in _named(action.dest) if yes), "text")


def _named(name: str) -> list[tuple[str, bool]]:
    return [("list", name in LISTED), ("path", bool(PATH.fullmatch(name)))]


def is_wrong(flag: Flag, text: str) -> bool:
    """Whether it is no boolean, no whole number, no finite number, or none of the choices."""
    if flag.choices:
        return text not in flag.choices
    if flag.kind == "bool":
        return text.lower() not in "yes true t y 1 no false f n 0".split()
    if flag.kind == "int":
        return not re.fullmatch(r"\s*[+-]?[0-9]+\s*", text)
    if flag.kind == "float":
        number = r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
        return not re.fullmatch(number, text) or not math.isfinite(float(text))
    return False


def texts(flag: Flag, draw: random.Random) -> str:
    """One text."""
    pool = {"bool": BOOLEANS, "int": NUMBERS, "float": NUMBERS, "list": LISTS, "path": PATHS}
    pool |= {"out": MADE, "text": TEXTS}
    typed = (*flag.choices, "", "X", *(c.upper() for c in flag.choices[:1]))
    text = draw.choice(typed if flag.choices else pool[flag.kind])
    if flag.kind in ("path", "out") or draw.random() < 0.4:
        return text
    if draw.random() < 0.5:
        return _bent(text, draw)
    letters = "0123456789.,-+eE=: \t\n\"'%$\\/*[]{}()abcxyz\u00e9\u0660\U0001f642\u202e"
    return "".join(draw.choice(letters) for _ in range(draw.choice((1, 2, 3, 8, 40))))


def _bent(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    return draw.choice(
        (
            text[:at] + draw.choice("0-.,e= x\n\t_'") + text[at:],
            text[:at] + text[at + 1 :],
            text[:at] + text[at : at + 1] * 3 + text[at + 1 :],
            text + "," + text,
            text[::-1],
        )
    )


def malformed(inputs: Inputs, count: int, seed: int) -> Iterator[Text]:
    """`count` runs, of all scripts by turns."""
    draw = random.Random(seed)
    known = {script: flags_of(script) for script in inputs.commands}
    for i in range(count):
        script = list(known)[i % len(known)]
        flag = draw.choice(known[script])
        text = texts(flag, draw)
        words = fill(inputs.commands[script], **{flag.name: text})
        yield Text(script, words, f"--{flag.name}={text!r:.80}", is_wrong(flag, text))
