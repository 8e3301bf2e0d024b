"""What every test file finds, whether it runs alone or among others."""

import pytest

from flatdiff.kernels import build


@pytest.fixture(autouse=True, scope="session")
def kernels():
    """The kernels that the scripts run with, also in tests that start no script."""
    return build.use()
