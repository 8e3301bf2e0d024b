"""A line of the registry, for as long as a test runs."""

import sys
from types import ModuleType

import pytest


@pytest.fixture
def register(monkeypatch):
    """(table, name, choice, what) -> the table has the choice, whose `where` is "toys:it"."""

    def add(table, name, choice, what=None):
        module = ModuleType("flatdiff.toys")
        module.it = what
        monkeypatch.setitem(sys.modules, "flatdiff.toys", module)
        monkeypatch.setitem(table, name, choice)

    return add
