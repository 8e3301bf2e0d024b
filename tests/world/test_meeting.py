"""How ranks find each other: by what no other user can write, MPI of the right vendor, SLURM."""

import os
import pickle
import sys
import tempfile

import pytest
import torch.distributed as dist
from launch import mpirun, start
from launchers import OPEN_MPI, SRUN_ON_TWO

from flatdiff.store import private
from flatdiff.world import launcher, meeting, signing

TOGETHER = r"""
from flatdiff.world import dist_util
with dist_util.session():
    print(f"{dist_util.all_gather_object(dist_util.rank())}\n", end="")  # as one write
"""


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("what was received ran",))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Where a folder of ours may be: [among temporary files, in the cache]."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return list(reversed(private.places("ranks")))


def test_address_reaches_the_other_ranks(folders):
    path = meeting.address_file(launcher.Place(0, 2))
    assert path.parent == folders[0] and oct(folders[0].stat().st_mode)[-3:] == "700"
    private.write(path, b'["127.0.0.1", 1234, "secret"]')
    assert meeting.read_address(path, 0) == ("127.0.0.1", 1234, "secret")
    with pytest.raises(TimeoutError, match="MASTER_ADDR"):
        meeting.read_address(path.with_name("nothing"), 0)


def test_a_folder_that_another_user_made_first_is_not_used(folders, tmp_path):
    (tmp_path / "theirs").mkdir()
    folders[0].symlink_to(tmp_path / "theirs")
    assert meeting.address_file(launcher.Place(0, 2)).parent == folders[1]
    folders[1].chmod(0o777)
    with pytest.raises(ValueError, match=f"{folders[0]} is not a folder.*{folders[1]}.*set TMPDIR"):
        meeting.address_file(launcher.Place(0, 2))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
def test_an_address_that_another_user_wrote_is_not_read(folders):
    path = meeting.address_file(launcher.Place(0, 2))
    private.write(path, b'["127.0.0.1", 1234, "secret"]')
    os.chown(path, 65534, 65534)
    with pytest.raises(OSError, match="another user's"):
        meeting.read_address(path, 0)


def test_a_stranger_in_the_store_is_told_and_not_believed():
    """He knows the port, and not the secret; what he wrote would have been unpickled."""
    place = launcher.Place(1, 2)
    for said in (pickle.dumps(Evil()), signing.signed("guessed", 0, ["host", ""])):
        store = dist.HashStore()
        store.set("rank0", said)
        with pytest.raises(ValueError, match="somebody else"):
            meeting.say_all(store, "secret", place, ["home", ""])
    store.set("rank0", signing.signed("secret", 0, "zero"))
    assert meeting.say_all(store, "secret", place, "one") == ["zero", "one"]


@pytest.mark.slow
def test_two_ranks_meet_although_somebody_waits_for_them(tmp_path):
    """The folder that they would take is a link into one of his."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (tmp_path / f"flatdiff-{os.geteuid()}-ranks").symlink_to(theirs)
    where = {"TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = mpirun(2, "-c", TOGETHER, **where, FLATDIFF_KERNELS="0")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[0, 1]\n" * 2)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_under_srun_ranks_of_several_hosts_meet_by_its_variables_alone():
    srun = {**SRUN_ON_TWO, "SLURM_STEP_NODELIST": "localhost,h6", "SLURM_STEP_NUM_TASKS": "2"}
    srun |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_LOCALID": "0", "FLATDIFF_KERNELS": "0"}
    ranks = [
        start([sys.executable, "-c", TOGETHER], **srun | {"SLURM_PROCID": str(rank)})
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=60) for rank in ranks]
    assert told == [("[0, 1]\n", "")] * 2


def test_an_mpi_of_another_vendor_than_the_launchers_is_not_begun(monkeypatch):
    """mpi4py here uses MPICH, whose MPI_Init aborts under Open MPI's mpirun."""
    pytest.importorskip("mpi4py")
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"Open MPI's mpirun .* mpi4py uses MPICH"):
        meeting.meet(launcher.find_place())


def test_a_port_that_is_taken_is_told(monkeypatch):
    with meeting.socket.create_server(("", 0)) as taken:
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(ValueError, match="rank 0 cannot wait for the others at .*MASTER_PORT"):
            meeting.meet(launcher.Place(0, 2, one_host=False))
