"""The knobs of what sets checkpoints side by side: what costs extra is off by default."""

import dataclasses
import inspect

import pytest

from flatdiff.flags import comparing, parse

GROUPS = [group for _, group in inspect.getmembers(comparing, dataclasses.is_dataclass)]


def test_what_costs_extra_is_off_by_default():
    study = comparing.StudyFlags()
    assert study.generation_seeds == study.checkpoints == 1 and study.moves == ""


@pytest.mark.parametrize("group", GROUPS)
def test_each_default_is_a_value_that_its_flag_takes(group):
    for field in dataclasses.fields(group):
        if field.default != "":  # which means that nothing was said
            assert parse.read(field, str(field.default)) == field.default
