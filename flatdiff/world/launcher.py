"""Where this process stands among those that a launcher started together, from its environment.

Knows torchrun, mpirun (MPICH, Intel MPI, Open MPI) and srun; needs neither torch nor MPI.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import signal
import socket
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
# What launchers say that are not known here (MVAPICH's, Flux, jsrun, PALS): how many processes they
# started, or only which one this is.
_SIZES = (
    "PMI_SIZE OMPI_COMM_WORLD_SIZE SLURM_STEP_NUM_TASKS MPI_LOCALNRANKS "
    "MV2_COMM_WORLD_SIZE MVP_COMM_WORLD_SIZE FLUX_JOB_SIZE JSM_NAMESPACE_SIZE PALS_LOCAL_SIZE"
).split()
_RANKS = "PMI_RANK PMIX_RANK PALS_RANKID ALPS_APP_PE".split()
_PORTS = range(20000, 32000)  # below those that systems give to whoever asks for any


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
        known = known_address(self)
        return known[0] if known else os.environ.get("MASTER_ADDR", socket.gethostname())


def find_place() -> Place:
    """Reads what the launcher says; ValueError where it makes no sense, or where a launcher that is
    not known here started several processes, each of which would take itself for the only one."""
    for names in _LAUNCHERS:
        rank, world_size, local_rank, local_size = (os.environ.get(name) for name in names)
        if rank and world_size and local_rank:
            numbers = [_number(name) for name in names[:3]]
            if not 0 <= numbers[0] < numbers[1]:
                raise ValueError(f"{names[0]}={rank} is no rank of {names[1]}={world_size}")
            return Place(*numbers, local_size == world_size, names[0])
    by_hand = ["WORLD_SIZE"] if "RANK" in os.environ else []  # a job's script may set one for srun
    alone = dict.fromkeys([*_SIZES, *by_hand], 1) | dict.fromkeys(_RANKS, 0)
    for name, most in alone.items():
        if name in os.environ and _number(name) > most:
            raise ValueError(
                f"{name}={os.environ[name]} says that a launcher started several processes, but "
                "not which of them this is in a way that is known here, and each would write as "
                "the only one: start with torchrun, srun, or the mpirun of MPICH or Open MPI, or "
                "set RANK, WORLD_SIZE, LOCAL_RANK (it picks the device) and LOCAL_WORLD_SIZE"
            )
    return Place()


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise ValueError(f"{name}={os.environ[name]!r} in the environment is no number") from None


def known_address(place: Place) -> tuple[str, int] | None:
    """Where rank 0 waits for the others, if the environment says it: MASTER_ADDR and MASTER_PORT
    (not torchrun's on one host, whose store every user of it may write to), or under srun on
    several hosts the first of them, and a port that the job's number gives."""
    if place.one_host and "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    if "MASTER_PORT" in os.environ:
        return os.environ.get("MASTER_ADDR", "127.0.0.1"), _number("MASTER_PORT")
    hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    if place.one_host or place.rank_variable != "SLURM_PROCID" or not hosts:
        return None
    job = f"{os.environ.get('SLURM_JOB_ID')}.{os.environ.get('SLURM_STEP_ID')}"
    port = int(hashlib.sha256(job.encode()).hexdigest(), 16) % len(_PORTS)
    return os.environ.get("MASTER_ADDR", first_of(hosts)), _PORTS[port]


def first_of(hosts: str) -> str:
    """The first name of SLURM's list: node[07-09,12],login is node07."""
    first = re.match(r"(\[[^]]*\]|[^][,])*", hosts)[0]
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first)


def by_open_mpi(place: Place) -> bool:
    """Whether Open MPI's mpirun started this rank."""
    return place.rank_variable.startswith(_OPEN_MPI)


def cores() -> list[int]:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def unbound(place: Place) -> list[int]:
    """The processors that this process had if Open MPI, which by default binds a rank to one core
    or one socket, had not; of other launchers those that it has, as they were asked for."""
    if by_open_mpi(place):
        with contextlib.suppress(OSError, AttributeError):
            return sorted(os.sched_getaffinity(starter(place)[0]))
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


def starter(place: Place) -> tuple[int, str]:
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


def interrupt_mpirun() -> None:
    """Ends MPICH's mpirun, if it runs on this host, by Ctrl-C twice: of a host that has gone silent
    it waits for ever."""
    place = find_place()
    if place.one_host or place.rank_variable != "PMI_RANK":
        return
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{starter(place)[0]}/stat").read_text().rpartition(")")[2].split()
        pid = int(stat[1])  # of what started the proxy that started this host's ranks
        if Path(f"/proc/{pid}/comm").read_text().strip() in ("mpirun", "mpiexec", "mpiexec.hydra"):
            for seconds in (1, 0.1):  # it first passes on what the ranks have said
                time.sleep(seconds)
                os.kill(pid, signal.SIGINT)
