"""Where this process stands among those that a launcher started together, from its environment.

Knows torchrun, mpirun (MPICH, Intel MPI, Open MPI) and srun; needs neither torch nor MPI.
"""

import contextlib
import dataclasses
import json
import os
import socket
import tempfile
import time
from pathlib import Path

_OPEN_MPI = "OMPI_COMM_WORLD_"
_LAUNCHERS = (  # rank, number of ranks, rank on this host, number of ranks on this host
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # torchrun, or by hand
    tuple(_OPEN_MPI + name for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI
    # srun; a batch script itself is no step. On several hosts the last one reads like "2(x3)".
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)


@dataclasses.dataclass(frozen=True)
class Place:
    """One rank's place; without arguments, a world of one."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    one_host: bool = True
    rank_variable: str = ""

    @property
    def first_host(self) -> str:
        """The name by which all ranks reach rank 0's host; right on every host if MASTER_ADDR is
        set, else on rank 0's alone."""
        if self.one_host:
            return "127.0.0.1"
        return os.environ.get("MASTER_ADDR", socket.gethostname())


def find_place() -> Place:
    """Reads what the launcher says; ValueError where RANK is set by hand and LOCAL_RANK is not."""
    env = os.environ
    for names in _LAUNCHERS:
        rank, world_size, local_rank, local_size = (env.get(name) for name in names)
        if rank and world_size and local_rank:
            one_host = local_size == world_size
            return Place(int(rank), int(world_size), int(local_rank), one_host, names[0])
    if "RANK" in env and int(env.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            f"RANK={env['RANK']} and WORLD_SIZE={env['WORLD_SIZE']} are set, but LOCAL_RANK, "
            "which picks the device, is not: set it, or start with torchrun or mpirun"
        )
    return Place()


def cores() -> list[int]:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def unbound(place: Place) -> list[int]:
    """The processors that this process had if Open MPI, which by default binds a rank to one core
    or one socket, had not; of other launchers those that it has, as they were asked for."""
    if place.rank_variable.startswith(_OPEN_MPI):
        with contextlib.suppress(OSError, AttributeError):
            return sorted(os.sched_getaffinity(_starter(place)[0]))
    return cores()


def unbind(place: Place) -> None:
    """Takes the processors of `unbound`: a rank with a GPU of its own still has images to decode
    and kernels to launch, in threads and processes that inherit where they may run."""
    if (found := unbound(place)) != cores():
        os.sched_setaffinity(0, found)


def caution_of_binding(place: Place, threads: int) -> str:
    """A sentence where this rank may use fewer processors than it has threads, or than its share of
    those that are there; "" elsewhere, and without a launcher."""
    own, there = len(cores()), len(unbound(place))
    sharers = int(os.environ.get(f"{_OPEN_MPI}LOCAL_SIZE", 1))
    if not place.rank_variable or own >= max(threads, there // sharers):
        return ""
    return (
        f"each rank is bound to {own} of {there} processors, and has {threads} thread(s): give "
        "mpirun --bind-to none (Open MPI binds ranks to cores by itself), or a smaller "
        "OMP_NUM_THREADS"
    )


def caution_of_load(threads: int) -> str:
    """A sentence where others keep this machine's processors busy, so that threads that spin while
    they wait for each other wait for those; "" for one thread, or where a user has set how to."""
    load, there = os.getloadavg()[0], os.cpu_count() or 1
    if threads < 2 or load <= 1.5 * there or "OMP_WAIT_POLICY" in os.environ:
        return ""
    return (
        f"others use this machine too (load {load:.1f}, {there} processors): with "
        "OMP_WAIT_POLICY=passive in the environment, or a smaller OMP_NUM_THREADS, a step may be "
        "several times faster"
    )


def address_file(place: Place) -> Path:
    """A file that only the ranks of this launch look for, on one host."""
    pid, born = _starter(place)
    return Path(tempfile.gettempdir(), f"flatdiff-{pid}-{born}.address")


def _starter(place: Place) -> tuple[int, str]:
    """The process that started all ranks, the nearest ancestor that is no rank itself, and when it
    was started: process ids are used again."""
    pid, born = os.getppid(), "0"
    ours = f"{place.rank_variable}=".encode()
    with contextlib.suppress(OSError):  # no /proc, or the launcher is another user's, as srun's
        while True:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            born = stat[19]
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if not any(entry.startswith(ours) for entry in environment):
                break
            pid = int(stat[1])
    return pid, born


def write_address(path: Path, host: str, port: int) -> None:
    """Writes rank 0's address; the file appears complete or not at all."""
    new = path.with_suffix(".new")  # no `store.disk`, which waits for the disk
    new.write_text(json.dumps([host, port]))
    new.replace(path)


def read_address(path: Path, timeout: float) -> tuple[str, int]:
    """Waits for rank 0's address (host, port); TimeoutError after `timeout` seconds."""
    give_up = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > give_up:
            raise TimeoutError(
                f"waited {timeout:.0f} s for rank 0 to write its address to {path}: did it start? "
                "Where ranks share no such folder, set MASTER_ADDR and MASTER_PORT"
            )
        time.sleep(0.02)
    host, port = json.loads(path.read_text())
    return host, port
