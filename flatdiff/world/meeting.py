"""How the ranks of a launch find each other, and a secret that only they know.

Rank 0 serves a store and makes the secret. It tells both by what all ranks see and no other user:
on one host a file in a folder of ours, on several MPI. Where the address is known before (torchrun
or srun on several hosts, MASTER_PORT by hand) the store tells the secret, and who reaches its port
is trusted, as torch does. What ranks say by it is JSON, signed: nothing of it is run.
"""

import json
import os
import secrets
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..store import private
from . import launcher, signing

JOIN_TIMEOUT = timedelta(minutes=5)  # for the slowest rank to start


def meet(place: launcher.Place) -> tuple[dist.Store, str]:
    """The store that all ranks share, and their secret.

    TimeoutError where rank 0 did not start; ValueError where it cannot be found.
    """
    secret = secrets.token_hex() if place.rank == 0 else ""
    known = launcher.known_address(place)
    if known:
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # which outlives them
        store = _store(place, *known, serves=place.rank == 0 and not served)
        store = dist.PrefixStore(f"start{_restart()}", store)
        if place.rank == 0:
            store.set("secret", secret)
        return store, _get(store, "secret", place).decode()
    if place.rank == 0:
        store = _store(place, place.first_host, 0, serves=True)
        _tell(place, [place.first_host, store.port, secret])
        return store, secret
    host, port, secret = _told(place)
    return _store(place, host, port, serves=False), secret


def say_all(store: dist.Store, secret: str, place: launcher.Place, content: Any) -> list:
    """What each rank says, as JSON, in the order of ranks; TimeoutError where one did not start."""
    store.set(f"rank{place.rank}", signing.signed(secret, place.rank, content))
    everyone = range(place.world_size)
    said = dict(signing.opened(secret, _get(store, f"rank{r}", place)) for r in everyone)
    store.set(f"read{place.rank}", "")
    if place.rank == 0:  # serves the store, so it goes on last
        store.wait([f"read{rank}" for rank in everyone])
        if place.one_host and not launcher.known_address(place):
            address_file(place).unlink(missing_ok=True)
    return [said[rank] for rank in everyone]


def share(store: dist.Store, secret: str, place: launcher.Place, content: Any) -> Any:
    """What rank 0 says, as JSON, on every rank; for once, after `say_all`."""
    if place.rank == 0:
        store.set("shared", signing.signed(secret, 0, content))
    return signing.opened(secret, _get(store, "shared", place))[1]


def address_file(place: launcher.Place) -> Path:
    """A file of ours alone that only the ranks of this launch look for, on one host."""
    pid, born = launcher.starter(place)
    try:
        folder = private.first_of(reversed(private.places("ranks")))
    except OSError as error:
        raise ValueError(
            f"the ranks of this host have no folder to meet in that is theirs alone ({error}): "
            "set TMPDIR to a folder of yours, or MASTER_ADDR=127.0.0.1 and a free MASTER_PORT"
        ) from error
    return folder / f"{pid}-{born}-{_restart()}.address"


def read_address(path: Path, timeout: float) -> tuple[str, int, str]:
    """Waits for rank 0's (host, port, secret); TimeoutError after `timeout` seconds."""
    give_up = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > give_up:
            raise TimeoutError(
                f"waited {timeout:.0f} s for rank 0 to write its address to {path}: did it start? "
                "Where ranks share no such folder, set MASTER_ADDR and MASTER_PORT"
            )
        time.sleep(0.02)
    with private.reading(path) as file:
        host, port, secret = json.load(file)
    return host, port, secret


def _restart() -> str:
    """How often torchrun has started the ranks anew."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _store(place: launcher.Place, host: str, port: int, serves: bool) -> dist.TCPStore:
    """Whoever serves it on one host cannot be reached from another."""
    how: dict[str, Any] = {"timeout": JOIN_TIMEOUT, "wait_for_workers": False}
    if serves and place.one_host:
        listener = socket.create_server((host, port))
        port = listener.getsockname()[1]
        how["master_listen_fd"] = listener.detach()
    try:
        return dist.TCPStore(host, port, is_master=serves, **how)
    except dist.DistNetworkError as error:
        doing = "cannot wait for the others at" if serves else "cannot reach rank 0 at"
        why = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"rank {place.rank} {doing} {host}:{port} ({why}): did rank 0 start there? If it did, "
            "set MASTER_ADDR to a name of its host that all hosts know, and MASTER_PORT to a port "
            "that is free there"
        ) from error


def _get(store: dist.Store, key: str, place: launcher.Place) -> bytes:
    try:
        return store.get(key)
    except dist.DistStoreError as error:
        others = f"the other {place.world_size - 1} ranks"
        raise TimeoutError(f"waited {JOIN_TIMEOUT} for {others} to start") from error


def _tell(place: launcher.Place, address: list) -> None:
    if place.one_host:
        private.write(address_file(place), json.dumps(address).encode())
    else:
        _by_mpi(place, json.dumps(address).encode())


def _told(place: launcher.Place) -> tuple[str, int, str]:
    if place.one_host:
        return read_address(address_file(place), JOIN_TIMEOUT.total_seconds())
    return json.loads(_by_mpi(place, b""))


def _by_mpi(place: launcher.Place, address: bytes) -> bytes:
    """Rank 0's address on every rank of several hosts, which may share nothing but MPI.

    Its bytes: mpi4py would pickle anything else.
    """
    MPI = _mpi(place)
    ours = not MPI.Is_initialized()
    if ours:
        MPI.Init()
    try:
        if place.world_size != MPI.COMM_WORLD.size:
            raise ValueError(
                f"the launcher started {place.world_size} ranks, but mpi4py sees "
                f"{MPI.COMM_WORLD.size}: it uses another MPI than the launcher; "
                "or set MASTER_ADDR and MASTER_PORT"
            )
        box = bytearray(address.ljust(1024))  # spaces end no JSON
        MPI.COMM_WORLD.Bcast([box, MPI.BYTE])
        return bytes(box)
    finally:
        if ours:
            MPI.Finalize()


def _mpi(place: launcher.Place) -> Any:
    """mpi4py's MPI, not begun yet: that of another vendor than the launcher's would abort."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library is installed
        raise ValueError(
            f"{place.world_size} ranks on several hosts need mpi4py to find rank 0 ({error}): "
            "pip install mpi4py mpich, or set MASTER_ADDR and MASTER_PORT"
        ) from error
    vendor = MPI.get_vendor()[0]
    if launcher.by_open_mpi(place) and vendor != "Open MPI":
        raise ValueError(
            f"Open MPI's mpirun started these ranks, but mpi4py uses {vendor}, which would abort: "
            f"start with {vendor}'s own mpirun, install an mpi4py of Open MPI, or set MASTER_ADDR "
            "and MASTER_PORT"
        )
    return MPI
