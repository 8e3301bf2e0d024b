"""A log that writes nothing, in a folder of its own."""

import pytest

from flatdiff.world import logger


@pytest.fixture(autouse=True)
def log(tmp_path):
    logger.configure(str(tmp_path / "run"), format_strs=[])
    yield
    logger.reset()
