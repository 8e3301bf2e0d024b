"""Feature networks by name: where each is loaded, and which distance it gives."""

import importlib

import pytest

from flatdiff.judge import names


@pytest.mark.parametrize("name", names.FEATURES)
def test_each_name_leads_to_a_function_and_says_its_distance(name):
    where, told = names.FEATURES[name]
    module, _, function = where.partition(":")
    assert callable(getattr(importlib.import_module(f"flatdiff.judge.{module}"), function))
    assert told.startswith("FID" if name == "inception" else f"FD-{name}")
