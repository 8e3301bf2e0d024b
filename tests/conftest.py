"""What every test finds, whether its file runs alone or among others, in whatever order."""

import os
import random

import numpy as np
import pytest
import small
import torch

from flatdiff.kernels import build
from flatdiff.world import logger

SETTINGS = ("OPENAI_", "FLATDIFF_", "CXX", "OMPI_", "PMI_", "MPI_", "SLURM_", "MASTER_")
SETTINGS += ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # as launchers set them


@pytest.fixture(autouse=True, scope="session")
def kernels(tmp_path_factory):
    """The kernels that scripts run with, also in tests that start none.

    Caches are a folder of their own; no launcher or user has set anything.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in [name for name in os.environ if name.startswith(SETTINGS)]:
            patch.delenv(name)
        yield build.use()


@pytest.fixture(autouse=True)
def fresh():
    """The same random numbers for each test; its threads and its log end with it."""
    threads = torch.get_num_threads()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    small.RNG.bit_generator.state = small.BEGINNING
    yield
    torch.set_num_threads(threads)
    logger.reset()


@pytest.fixture
def quiet(tmp_path):
    """The folder of a log that writes nothing."""
    logger.configure(str(tmp_path / "run"), format_strs=[])
    return tmp_path / "run"
