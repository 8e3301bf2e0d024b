"""What every test finds, whether its file runs alone or among others, in whatever order."""

import contextlib
import importlib
import os
import random
import signal
import sys

import numpy as np
import pytest
import small
import torch
from launch import ROOT

from flatdiff.kernels import build
from flatdiff.world import dist_util, logger

SETTINGS = ("OPENAI_", "FLATDIFF_", "CXX", "OMPI_", "PMI_", "MPI_", "SLURM_", "MASTER_")
SETTINGS += ("PMIX_", "MV2_", "MVP_", "FLUX_", "JSM_", "PALS_", "ALPS_", "TORCHELASTIC_")
SETTINGS += ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # as launchers set them

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # `make test &`: no test would see a Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def kernels(request, tmp_path_factory):
    """The kernels that scripts run with, also in tests that start none.

    They and all else that is cached stand in pytest's cache; no launcher or user has set anything.
    """
    kept = getattr(request.config, "cache", None)
    with pytest.MonkeyPatch.context() as patch:
        folder = kept.mkdir("home") if kept else tmp_path_factory.mktemp("home")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for name in [name for name in os.environ if name.startswith(SETTINGS)]:
            patch.delenv(name)
        patch.setenv("OMP_WAIT_POLICY", "passive")  # so that no line of a log depends on the load
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


@pytest.fixture(scope="module")
def call():
    """A function that runs scripts/NAME.py with these flags in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        patch.setattr(dist_util, "session", contextlib.nullcontext)

        def run(name, *argv):
            patch.setattr(sys, "argv", [name, *map(str, argv)])
            importlib.import_module(name).main()

        yield run
