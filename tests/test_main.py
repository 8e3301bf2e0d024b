"""The command `flatdiff`: it is named in what its scripts say."""

import sys

import pytest

from flatdiff import __main__, __version__


@pytest.mark.parametrize("verb", ["study", "compare", "evaluate"])
def test_a_verb_tells_errors_under_its_own_name(verb, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["flatdiff"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit):
        __main__.run([verb, "--no_such_flag", "1"])
    assert f"flatdiff {verb}: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", [*__main__.VERBS, *(f"data {p.stem}" for p in __main__.data_sets())]
)
def test_every_verb_says_its_version(verb, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["flatdiff"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stop:
        __main__.run([*verb.split(), "--version"])
    assert not stop.value.code and capsys.readouterr().out == f"flatdiff {__version__}\n"
