"""A rank's place and rank 0's address, from what launchers set."""

import os
import subprocess
import sys

import pytest
from launchers import (
    BATCH_SCRIPT,
    MPICH,
    MPICH_BY_SRUN,
    OPEN_MPI,
    SRUN,
    SRUN_ON_TWO,
    SRUN_WITH_PMI,
    TORCHRUN,
)

from flatdiff.world import launcher


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
def test_ranks_of_one_launch_agree_on_who_started_them_also_behind_a_wrapper():
    code = "from flatdiff.world import launcher as l; print(*l.starter(l.find_place()))"
    wrapper = ["sh", "-c", '"$@"; true', "sh"]
    direct, wrapped = (
        subprocess.check_output([*command, sys.executable, "-c", code], env={**os.environ, **MPICH})
        for command in ([], wrapper)
    )
    assert direct == wrapped
    assert direct.split()[0] == str(os.getpid()).encode()


@pytest.mark.slow
@pytest.mark.parametrize(("on_this_host", "told"), [("1", "interrupted\n"), ("2", "")])
def test_mpichs_mpirun_is_ended_where_another_host_can_be_silent(tmp_path, on_this_host, told):
    """A shell of that name, which starts one as its proxy, which starts the rank."""
    (tmp_path / "mpirun").symlink_to("/bin/sh")
    rank = (
        f"PMI_RANK=0 PMI_SIZE=2 MPI_LOCALRANKID=0 MPI_LOCALNRANKS={on_this_host} {sys.executable}"
    )
    code = "from flatdiff.world import launcher; launcher.interrupt_mpirun()"
    proxy = f"env {rank} -c '{code}'; :"
    mpirun = f'trap "echo interrupted" INT; sh -c "{proxy}"; :'
    said = subprocess.check_output([tmp_path / "mpirun", "-c", mpirun], text=True)
    assert said == told


UNKNOWN = {  # what it says of itself, and the variables of two processes
    "PMI_SIZE=2": {"PMI_RANK": "0", "PMI_SIZE": "2"},  # mpiexec of SLURM, or an old MPICH
    "MV2_COMM_WORLD_SIZE=2": {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0"},
    "MVP_COMM_WORLD_SIZE=2": {"MVP_COMM_WORLD_SIZE": "2", "MVP_COMM_WORLD_RANK": "0"},
    "FLUX_JOB_SIZE=2": {"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "0"},
    "JSM_NAMESPACE_SIZE=2": {"JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_RANK": "0"},
    "PMIX_RANK=1": {"PMIX_RANK": "1", "PMIX_NAMESPACE": "prterun-1"},
    "WORLD_SIZE=2": {"WORLD_SIZE": "2", "RANK": "0"},
}


@pytest.mark.parametrize("told", UNKNOWN)
def test_processes_of_an_unknown_launcher_do_not_each_take_themselves_for_the_only_one(
    monkeypatch, told
):
    for name, value in UNKNOWN[told].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{told} says .*set RANK, WORLD_SIZE, LOCAL_RANK"):
        launcher.find_place()
    for name in UNKNOWN[told]:
        monkeypatch.setenv(name, "1" if "SIZE" in name else "0")
    assert launcher.find_place() == launcher.Place()


def test_a_batch_script_may_set_what_its_srun_hands_on(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launcher.find_place() == launcher.Place()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"RANK": "4"}, "RANK=4 is no rank of WORLD_SIZE=4"),
        ({"RANK": "-1"}, "RANK=-1 is no rank"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE='four' in the environment is no number"),
    ],
)
def test_variables_that_make_no_sense_are_named(monkeypatch, change, told):
    for name, value in {**TORCHRUN, **change}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=told):
        launcher.find_place()


@pytest.mark.parametrize(
    ("hosts", "first"),  # as `scontrol show hostnames` has them
    [
        *[("h5", "h5"), ("h[5-6]", "h5"), ("node[007-009,12],login", "node007")],
        *[("a1,b[2-3]", "a1"), ("r[1-2]n[03,5-9]", "r1n03"), ("gpu[11,13]-ib", "gpu11-ib")],
    ],
)
def test_the_first_host_of_a_list_of_slurms(hosts, first):
    assert launcher.first_of(hosts) == first


def test_under_srun_on_several_hosts_the_job_names_the_address(monkeypatch):
    for name, value in SRUN_ON_TWO.items():
        monkeypatch.setenv(name, value)
    place = launcher.find_place()
    host, port = launcher.known_address(place)
    assert host == place.first_host == "h5" and 20000 <= port < 32000
    assert launcher.known_address(place) == (host, port)
    monkeypatch.setenv("SLURM_STEP_ID", "1")  # another step of the job beside it
    assert launcher.known_address(place)[1] != port
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    assert launcher.known_address(place)[0] == "10.0.0.1"
    monkeypatch.setenv("MASTER_PORT", "1234")
    assert launcher.known_address(place) == ("10.0.0.1", 1234)


@pytest.mark.parametrize(("size", "known"), [("4", None), ("2", ("h5", 1234))])
def test_torchruns_store_which_all_users_reach_is_for_several_hosts(monkeypatch, size, known):
    torchrun = {**TORCHRUN, "LOCAL_WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "none"}
    for name, value in {**torchrun, "MASTER_ADDR": "h5", "MASTER_PORT": "1234"}.items():
        monkeypatch.setenv(name, value)
    assert launcher.known_address(launcher.find_place()) == known


@pytest.mark.parametrize("variables", [SRUN, MPICH, OPEN_MPI, MPICH_BY_SRUN, {}])
def test_elsewhere_no_address_is_known_before(monkeypatch, variables):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "h[5-6]")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launcher.known_address(launcher.find_place()) is None


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
