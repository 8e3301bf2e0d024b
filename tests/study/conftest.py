"""A line of the registry, for as long as a test runs; images."""

import sys
from types import ModuleType

import numpy as np
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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images as an npz."""
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", arr_0=images)
    return folder / "images.npz"
