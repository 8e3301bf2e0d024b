"""Training on two hosts, by each launcher: the link is cut, all end and say why, and go on.

`make test-hosts`, or `pytest tests/hosts/two_hosts.py`; it takes minutes, so that no other run of
the tests finds this file by its name. Skipped, with the reason, where no hosts can be made.
"""

import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from hosts.namespaces import Hosts, end
from launch import ROOT, TINY, mpirun, run, script, succeed

STEPS, SAVED, LAST = 120, 20, "000120"
ENDS = 60  # seconds after the link was cut
BIN = Path(sys.executable).parent
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    try:
        made = Hosts(tmp_path_factory.mktemp("hosts"))
    except OSError as error:
        pytest.skip(f"two hosts cannot be made: {error}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A function of a log folder: the command of a training, without what starts it."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    succeed(run([sys.executable, ROOT / "datasets/digits.py", "--out_dir", folder]))
    flags = f"--batch_size 4 --end_step {STEPS} --save_interval {SAVED} --resume auto"
    how = [script("image_train"), "--data_dir", folder, *TINY, *flags.split()]
    how += ["--log_interval", STEPS]
    return lambda log_dir: [*how, "--log_dir", log_dir]


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory):
    """The weights of two ranks of one host that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    succeed(mpirun(2, *training(folder), timeout=300))
    return torch.load(folder / f"model{LAST}.pt", weights_only=True)


def by_torchrun(hosts, command):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    where = ["--master-addr=h1", "--master-port=29511"]
    return [
        hosts.start(i, [*torchrun, f"--node-rank={i}", *where, *command], **ENVIRONMENT)
        for i in (0, 1)
    ]


def by_mpirun(hosts, command):
    """MPICH's, whose proxies start as over rsh."""
    how = ["-hosts", "h1,h2", "-launcher", "rsh", "-launcher-exec", hosts.remote_shell()]
    ranks = ["-n", 2, "-ppn", 1, sys.executable, *command]
    return [hosts.start(0, [BIN / "mpirun", *how, *ranks], **ENVIRONMENT)]


def by_srun(hosts, command):
    """What srun without PMI sets, on two nodes of a job."""
    srun = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "h[1-2]"}
    srun |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    return [
        hosts.start(
            i,
            [sys.executable, *command],
            **{**ENVIRONMENT, **srun, "SLURM_PROCID": str(i), "SLURM_LOCALID": "0"},
        )
        for i in (0, 1)
    ]


LAUNCHERS = {"torchrun": by_torchrun, "mpirun": by_mpirun, "srun": by_srun}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_cut_link_ends_all_ranks_which_go_on_to_the_same_bits(
    hosts, training, whole, tmp_path, launcher
):
    if launcher == "mpirun" and not shutil.which(BIN / "mpirun"):
        pytest.skip(f"there is no MPICH in {BIN}")
    processes = LAUNCHERS[launcher](hosts, training(tmp_path))
    try:
        _wait_for(tmp_path / f"state{SAVED:06}.pt", processes)
        hosts.cut()
        cut = time.monotonic()
        said = "".join(_outputs(processes, ENDS))
        print(f"{launcher}: all ended {time.monotonic() - cut:.0f} s after the cut")
        assert all(process.returncode for process in processes), said
        assert re.search("rank 0: rank 1 on host h2 .*has gone silent", said), said
        if launcher != "mpirun":  # whose proxy cannot tell any more what its rank says
            assert re.search("rank 1: rank 0 on host h1 .*has gone silent", said), said
        assert not (tmp_path / f"model{LAST}.pt").exists()
        assert not _left(tmp_path), "a rank outlives its launcher"
        hosts.mend()
        processes = LAUNCHERS[launcher](hosts, training(tmp_path))
        said = "".join(_outputs(processes, 300))
        assert not any(process.returncode for process in processes), said
    finally:
        end(processes)
        hosts.mend()
    weights = torch.load(tmp_path / f"model{LAST}.pt", weights_only=True)
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def _wait_for(path: Path, processes: list) -> None:
    give_up = time.monotonic() + 120
    while not path.exists():
        if time.monotonic() > give_up or any(p.poll() is not None for p in processes):
            end(processes)
            raise AssertionError(f"no {path.name}:\n" + "".join(_outputs(processes, 10)))
        time.sleep(0.02)


def _outputs(processes: list, seconds: float) -> list[str]:
    """What all of them said, when they have ended; AssertionError where one does not."""
    give_up = time.monotonic() + seconds
    return [p.communicate(timeout=max(1, give_up - time.monotonic()))[0] for p in processes]


def _left(folder: Path) -> list[str]:
    """The processes that train into this folder."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has just ended
    return [c for c in commands if str(folder) in c and "pytest" not in c]
