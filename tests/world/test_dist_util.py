"""Two ranks on one machine, started as users start them; this file is also what the ranks run."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from launch import mpirun, start, torchrun

from flatdiff.kernels import build
from flatdiff.world import dist_util, launcher, signing

PEER_FAILED = "stopped because another rank failed"


def model_and_batch():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.SiLU(), torch.nn.Linear(7, 2))
    for param in model.parameters():
        param.data.normal_(generator=generator)
    return model.double(), torch.randn(6, 5, generator=generator).double()


def gradient(model, batch):
    model.zero_grad()
    model(batch).square().mean().backward()
    return [param.grad.flatten().tolist() for param in model.parameters()]


def gloo_threads():
    """This process's gloo threads; a platform without /proc shows none."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


# What the ranks do: one of these functions, named on their command line.


def together(folder):
    with dist_util.session():
        rank = dist_util.rank()
        model, batch = model_and_batch()
        ddp = dist_util.data_parallel(model)  # held to the end, as a script may do
        half = batch[3 * rank : 3 * rank + 3]
        params = [torch.full((2, 3), rank + 1.0), torch.full((4,), rank + 1)]
        results = {"mean_gradient": gradient(ddp, half)}
        with dist_util.no_sync(ddp):
            results["own_gradient"] = gradient(ddp, half)
        results |= collectives(rank)
        dist_util.sync_params(params)
        results["params"] = [param.tolist() for param in params]
    results["threads_left"] = gloo_threads()
    Path(folder, f"rank{rank}.json").write_text(json.dumps(results))


def collectives(rank):
    numbers = torch.tensor([[1.0, 2.0**-40], [0.5, 3.0]], dtype=torch.float64) * (rank + 1)
    parts = [torch.full((i + 1, 2), i + rank, dtype=torch.float64) / 3 for i in range(2)]
    dist_util.barrier()
    return {
        "sum": dist_util.all_reduce_sum(numbers.T).tolist(),
        "summed_in_place": numbers.tolist(),
        "cat": dist_util.all_gather_cat(torch.tensor([[rank, rank], [5, 6]]).T).tolist(),
        "objects": dist_util.all_gather_object({"rank": rank, "long": "é" * 99 * rank}),
        "object_of_rank_1": dist_util.broadcast_object(f"from {rank}", src=1),
        "tensors": [[t.tolist() for t in own] for own in dist_util.all_gather_tensors(parts)],
        "rows": dist_util.gather_rows(parts[rank:]).tolist(),
        "summary": dist_util.launch_summary(),
        "place": [dist_util.world_size(), dist_util.local_rank(), str(dist_util.dev())],
    }


def one_fails():
    with dist_util.session():
        if dist_util.rank() == 1:
            raise ValueError("lr is -1: expected a positive number")
        time.sleep(600)


def all_fail():
    with dist_util.session():
        raise FileNotFoundError("no such folder: data")


def killed():
    with dist_util.session():
        if dist_util.rank() == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            torch.ones(100).sum()


# Two ranks.


@pytest.mark.slow
@pytest.mark.parametrize("start_ranks", [mpirun, torchrun])
def test_two_ranks_work_together(start_ranks, tmp_path):
    done = start_ranks(2, __file__, "together", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    model, batch = model_and_batch()
    for rank, result in enumerate(ranks):
        for ours, joined in zip(result["mean_gradient"], gradient(model, batch)):
            torch.testing.assert_close(ours, joined, rtol=1e-12, atol=1e-14)
        own = gradient(model, batch[3 * rank : 3 * rank + 3])
        for ours, alone in zip(result["own_gradient"], own):
            torch.testing.assert_close(ours, alone, rtol=1e-12, atol=1e-14)
        assert result["sum"] == [[3.0, 1.5], [3 * 2.0**-40, 9.0]]
        assert result["summed_in_place"] == [[3.0, 3 * 2.0**-40], [1.5, 9.0]]
        assert result["cat"] == [[0, 5], [0, 6], [1, 5], [1, 6]]
        assert result["objects"] == [{"rank": 0, "long": ""}, {"rank": 1, "long": "é" * 99}]
        assert result["object_of_rank_1"] == "from 1"
        third = 1 / 3
        first, second = [[[0.0] * 2], [[third] * 2] * 2], [[[third] * 2], [[2 * third] * 2] * 2]
        assert result["tensors"] == [first, second]
        assert result["rows"] == first[0] + second[1] + first[1]
        assert result["summary"] == f"2 ranks on cpu (gloo), 1 thread each, {build.use()}"
        assert result["place"] == [2, rank, "cpu"]
        assert result["params"] == [[[1.0] * 3] * 2, [1] * 4]
        # Gloo's threads sometimes abort an interpreter that exits while they run.
        assert result["threads_left"] == []


@pytest.mark.slow
def test_one_failure_ends_all_ranks_with_its_message_under_mpirun():
    done = mpirun(2, __file__, "one_fails")
    assert done.returncode != 0
    told = ["rank 0: " + PEER_FAILED, "rank 1: ValueError: lr is -1: expected a positive number"]
    assert sorted(done.stderr.splitlines()) == told


@pytest.mark.slow
def test_one_failure_ends_all_ranks_with_its_message_under_torchrun():
    done = torchrun(2, __file__, "one_fails")
    assert done.returncode != 0
    assert "rank 1: ValueError: lr is -1: expected a positive number\n" in done.stderr


@pytest.mark.slow
def test_ranks_on_several_hosts_meet_through_mpi():
    """Two ranks that believe to be alone on their hosts; then both fail the same way."""
    done = mpirun(2, "-c", ON_TWO_HOSTS, __file__, "all_fail")
    assert done.returncode != 0
    assert "rank 0: FileNotFoundError: no such folder: data\n" in done.stderr
    assert "Traceback" not in done.stderr


ON_TWO_HOSTS = (
    "import os, sys; os.environ['MPI_LOCALNRANKS'] = '1'; "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.mark.slow
def test_kill_of_one_rank_ends_the_other_without_help_of_a_launcher():
    ranks = [
        start(
            [sys.executable, __file__, "killed"],
            **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
            **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]
    try:
        told = [rank.communicate(timeout=60)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [-signal.SIGKILL, 1]
    assert told[0] == "" and told[1].startswith(f"rank 1: {PEER_FAILED}: rank 0 on host ")
    assert len(told[1].splitlines()) == 1


# Devices.


@pytest.mark.parametrize(
    ("gpus", "backend"), [(["", ""], "gloo"), (["a", "b"], "nccl"), (["a"] * 2, 1), (["a", ""], 1)]
)
def test_backend_is_nccl_only_if_every_rank_has_its_own_gpu(gpus, backend):
    if backend in ("gloo", "nccl"):
        assert dist_util._choose_backend(gpus) == backend
    else:
        with pytest.raises(ValueError, match="2 ranks see 1 GPU.*mpirun -n"):
            dist_util._choose_backend(gpus)


def test_ranks_that_share_cores_share_threads(monkeypatch):
    """Three ranks that may use the same eight cores; mpirun makes MKL take one thread."""
    store, chosen = {}, []

    def get(_, key):  # each rank says what rank 1 does
        return signing.signed("", int(key[4:]), signing.opened("", store["rank1"])[1])

    alike = type("Store", (), {"set": store.__setitem__, "get": get})
    monkeypatch.setattr(dist_util, "_place", launcher.Place(1, 3, 1, False, "PMI_RANK"))
    monkeypatch.setattr(dist_util, "dev", lambda: torch.device("cpu"))
    monkeypatch.setattr(launcher, "cores", lambda: list(range(8)))
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert dist_util._agree(alike(), "") == "gloo"
    assert chosen == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert dist_util._agree(alike(), "") == "gloo"
    assert chosen == [8 // 3]


def test_gradients_on_cuda_go_out_in_buckets_while_others_are_computed(monkeypatch):
    """Those of torch, of 25 MB; on a CPU all at the end, where memory is shared."""

    class Ddp:
        def __init__(self, model, **how):
            self.how = how
            self.register_comm_hook = lambda *_: None

    monkeypatch.setattr(dist_util, "DistributedDataParallel", Ddp)
    monkeypatch.setattr(dist_util, "_place", launcher.Place(0, 2))
    for device, bucket in [("cpu", 1 << 20), ("cuda:0", None)]:
        monkeypatch.setattr(dist_util, "dev", lambda device=device: torch.device(device))
        assert dist_util.data_parallel(torch.nn.Linear(1, 1)).how.get("bucket_cap_mb") == bucket


def test_a_cache_that_was_not_trusted_is_told(monkeypatch):
    assert dist_util.caution() == ""
    monkeypatch.setattr(build, "notes", ["compiled anew: kernels.so is damaged"])
    assert dist_util.caution() == "C++ kernels: compiled anew: kernels.so is damaged"


# A world of one.


def test_a_world_of_one_needs_no_group():
    tensor = torch.ones(3)
    model = torch.nn.Linear(2, 2)
    with dist_util.session():
        assert (dist_util.rank(), dist_util.world_size(), dist_util.local_rank()) == (0, 1, 0)
        assert dist_util.all_reduce_sum(tensor) is tensor
        assert dist_util.all_gather_cat(tensor).tolist() == [1, 1, 1]
        assert dist_util.all_gather_object("a") == ["a"]
        assert dist_util.broadcast_object("a") == "a"
        assert dist_util.gather_rows([tensor, tensor]).tolist() == [1] * 6
        assert dist_util.data_parallel(model) is model
        dist_util.barrier()
        dist_util.sync_params(model.parameters())
        with dist_util.no_sync(model):
            pass
        assert dist_util.launch_summary().startswith("1 rank on ")


def test_rows_of_ranks_that_took_turns_come_in_order(monkeypatch):
    parts = [torch.arange(i, i + 2) for i in range(0, 14, 2)]
    ranks = [parts[rank::3] for rank in range(3)]
    monkeypatch.setattr(dist_util, "all_gather_tensors", lambda mine: ranks)
    assert dist_util.gather_rows(ranks[0]).tolist() == list(range(14))


def test_load_state_dict_reads_a_file(tmp_path):
    torch.save({"w": torch.arange(3)}, tmp_path / "model.pt")
    loaded = dist_util.load_state_dict(str(tmp_path / "model.pt"), map_location="cpu")
    assert loaded["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ValueError("bad flag"), 1, "ValueError: bad flag\n"),
        (FileNotFoundError("data"), 1, "FileNotFoundError: data\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
        (SystemExit(7), 7, ""),
        (SystemExit(0), 0, ""),
    ],
)
def test_an_error_is_a_sentence_and_an_exit_code(capsys, error, code, told):
    with pytest.raises(SystemExit) as stopped, dist_util.session():
        raise error
    assert stopped.value.code == code
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(("error", "debug"), [(KeyError("x"), "0"), (ValueError("x"), "1")])
def test_an_unexpected_error_shows_where(monkeypatch, capsys, error, debug):
    monkeypatch.setenv("FLATDIFF_DEBUG", debug)
    with pytest.raises(SystemExit) as stopped, dist_util.session():
        raise error
    assert stopped.value.code == 1
    assert "test_an_unexpected_error_shows_where" in capsys.readouterr().err


def test_a_session_in_a_session_is_its_body():
    """A study's job runs scripts, each of which opens a session: their errors are its own."""
    with dist_util.session():
        with pytest.raises(ZeroDivisionError), dist_util.session():
            _ = 1 / 0
        with dist_util.session():
            pass
    with pytest.raises(SystemExit), dist_util.session():  # and later ones are sessions again
        raise ValueError


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
