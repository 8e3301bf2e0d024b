"""A rank's place, from what launchers set, and the file that names rank 0's address."""

import os
import subprocess
import sys

import pytest

from flatdiff.world import launcher

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
OPEN_MPI = {
    **{"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"},
    **{"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
}
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
BATCH_SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}
SRUN = {
    **{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"},
    **{"SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "3", "SLURM_STEP_TASKS_PER_NODE": "4"},
}
SRUN_ON_TWO = {**SRUN, "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
# srun speaks PMI to MPI programs; its mpirun starts one proxy a host by srun.
SRUN_WITH_PMI = {**SRUN, "PMI_RANK": "3", "PMI_SIZE": "4"}
MPICH_BY_SRUN = {**SRUN, **MPICH, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, (0, 1, 0, True)),
        (TORCHRUN, (3, 4, 1, False)),
        (OPEN_MPI, (3, 4, 1, False)),
        (MPICH, (3, 4, 1, False)),
        (BATCH_SCRIPT, (0, 1, 0, True)),
        (SRUN, (3, 4, 3, True)),
        (SRUN_ON_TWO, (3, 4, 1, False)),
        (SRUN_WITH_PMI, (3, 4, 3, True)),
        (MPICH_BY_SRUN, (3, 4, 1, False)),
    ],
)
def test_place_is_read_from_the_launcher(monkeypatch, variables, place):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = launcher.find_place()
    assert (found.rank, found.world_size, found.local_rank, found.one_host) == place


def test_rank_by_hand_without_local_rank_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="LOCAL_RANK"):
        launcher.find_place()


@pytest.mark.slow
def test_ranks_of_one_launch_agree_on_the_address_file_also_behind_a_wrapper():
    code = "from flatdiff.world import launcher as l; print(l.address_file(l.find_place()))"
    wrapper = ["sh", "-c", '"$@"; true', "sh"]
    direct, wrapped = (
        subprocess.check_output([*command, sys.executable, "-c", code], env={**os.environ, **MPICH})
        for command in ([], wrapper)
    )
    assert direct == wrapped
    assert str(os.getpid()) in direct.decode()


def test_address_reaches_the_other_ranks(tmp_path):
    launcher.write_address(tmp_path / "address", "127.0.0.1", 1234)
    assert launcher.read_address(tmp_path / "address", 0) == ("127.0.0.1", 1234)
    with pytest.raises(TimeoutError, match="MASTER_ADDR"):
        launcher.read_address(tmp_path / "nothing", 0)


BOUND = """
import os
from flatdiff.world import launcher
place, cores = launcher.find_place(), launcher.cores()
os.sched_setaffinity(0, cores[:1])
for threads in (1, len(cores)):
    print(launcher.caution_of_binding(place, threads) or "fine")
launcher.unbind(place)
print(launcher.cores() == cores, launcher.caution_of_binding(place, 1) or "fine")
"""


@pytest.mark.slow
@pytest.mark.skipif(len(launcher.cores()) < 2, reason="there is one core")
@pytest.mark.parametrize("launched", [OPEN_MPI, MPICH, {}])
def test_ranks_that_open_mpi_binds_to_a_core_are_told_and_can_leave_it(launched):
    """A process that was bound as Open MPI does it, beside others, or alone on its machine."""
    there = len(launcher.cores())
    for sharers in (there, 1):
        size = {"OMPI_COMM_WORLD_LOCAL_SIZE": str(sharers)} if launched == OPEN_MPI else {}
        env = {**os.environ, **launched, **size}
        said = subprocess.check_output([sys.executable, "-c", BOUND], env=env, text=True)
        one, all_, free = said.splitlines()
        told = f"bound to 1 of {there} processors" if launched == OPEN_MPI else "bound to 1 of 1 "
        assert (one == "fine") == (sharers == there or launched != OPEN_MPI)
        assert (told in all_) == bool(launched)
        assert free == ("True fine" if launched == OPEN_MPI else "False fine")


@pytest.mark.parametrize(
    ("load", "threads", "policy", "told"),
    [(9.0, 2, "", True), (9.0, 1, "", False), (2.5, 2, "", False), (9.0, 2, "active", False)],
)
def test_a_machine_that_others_use_is_told(monkeypatch, load, threads, policy, told):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert ("load 9.0, 2 processors" in launcher.caution_of_load(threads)) == told
