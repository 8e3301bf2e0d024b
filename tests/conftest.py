"""What every test finds, whether its file runs alone or among others, in whatever order."""

import random

import numpy as np
import pytest
import torch

from flatdiff.kernels import build
from flatdiff.world import logger

SETTINGS = ("OPENAI_LOGDIR", "OPENAI_LOG_FORMAT", "FLATDIFF_KERNELS", "FLATDIFF_DEBUG", "CXX")


@pytest.fixture(autouse=True, scope="session")
def kernels(tmp_path_factory):
    """The kernels that scripts run with, also in tests that start none; caches that end with us."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in SETTINGS:
            patch.delenv(name, raising=False)
        yield build.use()


@pytest.fixture(autouse=True)
def fresh():
    """The same random numbers for each test; its threads and its log end with it."""
    threads = torch.get_num_threads()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    logger.reset()


@pytest.fixture
def quiet(tmp_path):
    """The folder of a log that writes nothing."""
    logger.configure(str(tmp_path / "run"), format_strs=[])
    return tmp_path / "run"
