"""`import flatdiff` costs nothing, and types of what it gives are known to those who check them."""

import ast
import importlib
import subprocess
import sys

import pytest
from launch import ROOT

import flatdiff

INIT = ROOT / "flatdiff/__init__.py"


def said(code):
    """What a fresh interpreter prints."""
    how = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    return subprocess.run([sys.executable, "-c", code], **how).stdout.split()


def typed():
    """{name: module} of the imports that only a type checker sees."""
    (block,) = (node for node in ast.parse(INIT.read_text()).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {alias.name: node.module for node in block.body for alias in node.names}


@pytest.mark.slow
def test_importing_it_imports_nothing_else():
    before = "import sys; import importlib, typing; before = {*sys.modules}"
    code = f"{before}; import flatdiff; dir(flatdiff); print(*{{*sys.modules}} - before)"
    assert said(code) == ["flatdiff"]


@pytest.mark.slow
def test_a_name_brings_what_it_needs_and_no_more():
    code = "import flatdiff, sys; flatdiff.gaussian; print(*sys.modules)"
    modules = said(code)
    assert "torch" in modules and not {"matplotlib", "diffusers"} & {*modules}


def test_what_is_public_is_listed_typed_and_there():
    assert flatdiff.__all__ == sorted(flatdiff.__all__) and {*flatdiff.__all__} <= {*dir(flatdiff)}
    assert {*typed()} == {*flatdiff.__all__}
    for name, module in typed().items():
        home = importlib.import_module(f"flatdiff.{module}")
        assert getattr(flatdiff, name) is getattr(home, name)
        assert getattr(flatdiff, name).__doc__ and getattr(flatdiff, name).__module__
    assert (ROOT / "flatdiff/py.typed").is_file()
    with pytest.raises(AttributeError, match="module 'flatdiff' has no attribute 'flat'"):
        _ = flatdiff.flat
