"""Tables by hand: names and knobs, and what is said of those that are none."""

import argparse
import sys
from types import SimpleNamespace

import pytest

from flatdiff.flags import lookup


def rounded(image, *, digits=2, up=False, scale=1.0, by="half", weights=None):
    return digits, up, scale, by


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setitem(sys.modules, "flatdiff.toy", SimpleNamespace(rounded=rounded, plain=len))
    return {
        "rounded": lookup.Choice("toy:rounded", "to a few digits"),
        "plain": lookup.Choice("toy:plain", "as it is"),
    }


def test_what_is_told_is_all_of_the_table(table):
    assert lookup.told(table) == "rounded: to a few digits; plain: as it is"


def test_a_name_and_its_knobs(table):
    assert lookup.named(table, "rounded digits=3 by=x") == ("rounded", {"digits": "3", "by": "x"})
    function, knobs = lookup.chosen(table, "rounded digits=3 up=yes scale=2")
    assert function is rounded and knobs == {"digits": 3, "up": True, "scale": 2.0}
    assert lookup.bound(table, "rounded digits=3 up=yes")(None) == (3, True, 1.0, "half")
    assert lookup.entry(table, "rounded digits=3") is table["rounded"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("round", "got 'round', expected one of rounded, plain; did you mean rounded?"),
        ("", "got '', expected one of rounded, plain"),
        ("rounded digits", "got 'digits' behind rounded, expected knob=value"),
        ("rounded digits=", "got 'digits=' behind rounded, expected knob=value"),
        ("rounded digit=3", "rounded has no knob 'digit'; it has digits, up, scale, by"),
        ("rounded weights=3", "rounded has no knob 'weights'"),  # no text could say it
        ("plain digits=3", "plain has no knob 'digits'; it has none"),
        ("rounded digits=x", "rounded, digits: got 'x', expected a whole number"),
        ("rounded up=maybe", "rounded, up: got 'maybe', expected True or False"),
    ],
)
def test_what_is_no_choice_says_what_is_one(table, text, message):
    with pytest.raises(ValueError) as told:
        lookup.chosen(table, text)
    assert str(told.value).startswith(message)


def test_values_are_read_by_their_kind():
    read = {(bool, "No"): False, (bool, "1"): True, (int, "-3"): -3, (float, "1e-4"): 1e-4}
    assert all(lookup.read(*given) == value for given, value in read.items())
    with pytest.raises(argparse.ArgumentTypeError, match="got '1.5', expected a whole number"):
        lookup.read(int, "1.5")
