"""The registry: every name leads somewhere, without torch before."""

import sys

import pytest
from launch import run

from flatdiff.flags import choices

TABLES = (
    "NETWORKS SAMPLERS OBJECTIVES NOISE_LEVELS GRADIENTS OPTIMIZERS AVERAGES QUANTIZERS MEASURES "
    "FEATURES MOVES"
).split()


@pytest.mark.parametrize("name", TABLES)
def test_every_name_leads_somewhere_and_says_what_it_is(name):
    for choice in getattr(choices, name).values():
        assert callable(choice.load()) and choice.help


@pytest.mark.slow
def test_the_registry_imports_no_torch():
    """Nor do the flags, so that help comes at once."""
    code = "import sys, flatdiff.flags.config, flatdiff.flags.use; print('torch' in sys.modules)"
    assert run([sys.executable, "-c", code]).stdout == "False\n"
