"""Ranks and devices: one process per device, all of them the same program.

Every rank has a GPU of its own (nccl), or none has one (CPU, gloo); without a launcher this is a
complete world of one. Gradients are means over ranks. Knows nothing else about training.
"""

import atexit
import contextlib
import functools
import gc
import itertools
import json
import os
import socket
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Its default arguments keep the process group that exists when it is first imported (DDP does it).
# A group that is kept has threads, and those sometimes abort the interpreter while it exits.
import torch.distributed.nn.functional
from safetensors import torch as safetensors
from torch.nn.parallel import DistributedDataParallel

from ..kernels import build
from . import allocator, launcher, lifeline, meeting, shared_sum, stopping

COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # one rank may evaluate alone meanwhile

_place = launcher.Place()
_in_session = False


def setup_dist() -> None:
    """Joins the ranks that were started together; a second call does nothing. For code that has no
    `session`: torch.distributed has a group afterwards, also of one rank, until the process exits.

    ValueError where the launcher's variables make no sense, or ranks would have to share a GPU;
    TimeoutError where some rank did not start.
    """
    global _place
    if dist.is_initialized():
        if dist.get_world_size() != world_size():  # the group is the caller's own
            local = int(os.environ.get("LOCAL_RANK", 0))
            _place = launcher.Place(dist.get_rank(), dist.get_world_size(), local, one_host=False)
        return
    _join()
    if not dist.is_initialized():
        _group("nccl" if dev().type == "cuda" else "gloo", dist.HashStore())
    atexit.register(_leave)


def _join(watching: bool = False) -> lifeline.Lifeline | None:
    """Finds this rank's place and device, and makes a group of several ranks, who are `watching`
    each other from then on: one alone cannot wait for the others of a group that is not made."""
    global _place
    if dist.is_initialized():
        return None
    _place = launcher.find_place()
    if torch.cuda.is_available():
        launcher.unbind(_place)
    else:
        allocator.keep_freed_memory()
        build.use()
    if world_size() == 1:
        _share_cores(1)
        return None
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    store, secret = meeting.meet(_place)
    backend = _agree(store, secret)
    share = functools.partial(meeting.share, store, secret, _place)
    line = lifeline.Lifeline(*_watched(), share, secret) if watching else None
    _group(backend, store)
    return line


def _group(backend: str, store: dist.Store) -> None:
    how = {"timeout": COLLECTIVE_TIMEOUT, "device_id": dev() if backend == "nccl" else None}
    try:
        dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), **how)
    except RuntimeError as error:
        if "Gloo connect" not in str(error):
            raise
        raise ValueError(
            f"{socket.gethostname()} has met the other ranks but cannot reach them ({error}): set "
            "GLOO_SOCKET_IFNAME to the name of the network interface that reaches the other hosts "
            "(`ip addr` lists them)"
        ) from error


def _watched() -> tuple[int, int, str]:
    return rank(), world_size(), _place.first_host


def rank() -> int:
    """This process among all of them, 0 .. world_size() - 1."""
    return _place.rank


def world_size() -> int:
    """How many processes there are."""
    return _place.world_size


def local_rank() -> int:
    """This process among those on its host."""
    return _place.local_rank


def dev() -> torch.device:
    """This rank's device: its GPU among the visible ones, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def launch_summary() -> str:
    """Ranks and devices in a line: '2 ranks on cpu (gloo), 1 thread each, C++ kernels'."""
    ranks, each = ("1 rank", "") if world_size() == 1 else (f"{world_size()} ranks", " each")
    backend = f" ({dist.get_backend()})" if dist.is_initialized() else ""
    if dev().type == "cuda":
        return f"{ranks} on {torch.cuda.get_device_name()}{backend}"
    threads = torch.get_num_threads()
    cores = f"{threads} thread{'s' * (threads > 1)}{each}"
    return f"{ranks} on cpu{backend}, {cores}, {build.use()}"


def caution() -> str:
    """A sentence on what slows this rank down from outside, or is not to be trusted, or ""."""
    if dev().type != "cpu":
        return ""
    if build.notes:
        return f"C++ kernels: {'; '.join(build.notes)}"
    threads = torch.get_num_threads()
    return launcher.caution_of_binding(_place, threads) or launcher.caution_of_load(threads)


def barrier() -> None:
    """Returns when every rank has come here."""
    if world_size() > 1:
        dist.barrier()


def broadcast_object(obj: Any, src: int = 0) -> Any:
    """Rank `src`'s object, on every rank, as JSON gives it back: whoever wrote it, nothing runs."""
    if world_size() == 1:
        return obj
    content = json.dumps(obj).encode() if rank() == src else b""
    size = torch.tensor([len(content)], device=dev())
    dist.broadcast(size, src=src)
    box = _bytes(content, int(size))
    dist.broadcast(box, src=src)
    return json.loads(bytes(box.cpu().numpy()))


def all_gather_object(obj: Any) -> list:
    """Every rank's object, in the order of ranks, as JSON gives it back."""
    if world_size() == 1:
        return [obj]
    return [json.loads(content) for content in _all_gather_bytes(json.dumps(obj).encode())]


def all_gather_tensors(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Every rank's tensors, of any number and shapes, on the CPU; a list for each rank."""
    if world_size() == 1:
        return [list(tensors)]
    named = {f"{i}": tensor.cpu().contiguous().clone() for i, tensor in enumerate(tensors)}
    every = map(safetensors.load, _all_gather_bytes(safetensors.save(named)))
    return [[found[f"{i}"] for i in range(len(found))] for found in every]


def gather_rows(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The rows of all ranks' parts; of n ranks each has every n-th part, in their order."""
    rounds = itertools.zip_longest(*all_gather_tensors(parts))
    return torch.cat([part for together in rounds for part in together if part is not None])


def _all_gather_bytes(content: bytes) -> list[bytes]:
    sizes = all_gather_cat(torch.tensor([len(content)])).tolist()
    boxes = all_gather_cat(_bytes(content, max(sizes))[None]).cpu().numpy()
    return [bytes(box[:size]) for box, size in zip(boxes, sizes)]


def _bytes(content: bytes, size: int) -> torch.Tensor:
    """uint8 [size] on this rank's device: the content, then zeros."""
    return torch.frombuffer(bytearray(content.ljust(size, b"\0")), dtype=torch.uint8).to(dev())


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, in place; returns the tensor, which may be on any device."""
    if world_size() > 1:
        moved = tensor.to(dev()).contiguous()
        dist.all_reduce(moved)
        if moved is not tensor:
            tensor.copy_(moved)
    return tensor


def all_gather_cat(tensor: torch.Tensor) -> torch.Tensor:
    """[N, ...] of equal shape on every rank -> [world_size * N, ...] in the order of ranks."""
    if world_size() == 1:
        return tensor
    moved = tensor.to(dev()).contiguous()
    parts = [torch.empty_like(moved) for _ in range(world_size())]
    dist.all_gather(parts, moved)
    return torch.cat(parts).to(tensor.device)


@torch.no_grad()
def sync_params(params: Iterable[torch.Tensor]) -> None:
    """Gives every rank the values of rank 0: one flat broadcast for each dtype."""
    groups: dict[torch.dtype, list[torch.Tensor]] = {}
    for param in params if world_size() > 1 else ():
        groups.setdefault(param.dtype, []).append(param)
    for group in groups.values():
        flat = torch.cat([param.reshape(-1) for param in group]).to(dev())
        dist.broadcast(flat, src=0)
        for param, part in zip(group, flat.split([param.numel() for param in group])):
            param.copy_(part.view(param.shape))


def load_state_dict(path: str, **kwargs) -> Any:
    """What is in a checkpoint file; every rank reads it itself, so this is no collective call."""
    from ..store import checkpoint

    return checkpoint.load(path, **kwargs)


def data_parallel(model: torch.nn.Module, **kwargs) -> torch.nn.Module:
    """The model with gradients averaged over ranks; the model itself in a world of one."""
    if world_size() == 1:
        return model
    how: dict[str, Any] = {"gradient_as_bucket_view": True}  # one copy of all gradients less
    if dev().type == "cuda":
        how["device_ids"] = [dev().index]
    shares_memory = dev().type == "cpu" and shared_sum.suits(world_size(), _place.one_host)
    if shares_memory:  # all gradients at the end: no core would be idle before
        how["bucket_cap_mb"] = 1 << 20
    ddp = DistributedDataParallel(model, **how | kwargs)
    if shares_memory:
        memory = shared_sum.SharedSum(rank(), world_size(), barrier, all_gather_object)
        hook = shared_sum.mean_of_buckets(world_size(), dist.all_reduce)
        ddp.register_comm_hook(memory, hook)
    return ddp


def no_sync(model: torch.nn.Module) -> contextlib.AbstractContextManager:
    """A context in which forward and backward passes add to this rank's own gradients only."""
    return getattr(model, "no_sync", contextlib.nullcontext)()


@contextlib.contextmanager
def session():
    """Runs a script's body with the ranks set up, and ends all of them together.

    An exception is told as a sentence if it is the user's to mend (see lifeline.TOLD), else with
    its traceback, as always under FLATDIFF_DEBUG=1. The other ranks end within moments. Exit codes:
    1, 75 for being asked to end (see `stopping`), and sys.exit's. In a session it is that's body.
    """
    global _in_session
    if _in_session:
        yield
        return
    leaving = None
    try:
        _in_session = True
        with stopping.listening(lambda text, code: lifeline.end(rank(), text, code)):
            line = _join(watching=True) or lifeline.Lifeline(*_watched(), broadcast_object, "")
            try:
                yield
            except SystemExit as stop:
                if stop.code and not stopping.together(stop):
                    raise
                leaving = stop
            with stopping.deferred():
                line.goodbye()
                _leave()
    except BaseException as error:
        lifeline.fail(error, rank(), world_size())
    finally:
        _in_session = False
    if leaving:
        raise leaving


def _agree(store: dist.Store, secret: str) -> str:
    """The backend for all ranks, after each has told the others what it has."""
    home = [socket.gethostname(), launcher.cores()]
    gpu = str(torch.cuda.get_device_properties(dev()).uuid) if dev().type == "cuda" else ""
    homes, gpus = zip(*meeting.say_all(store, secret, _place, [home, gpu]))
    _share_cores(homes.count(home))
    return _choose_backend(gpus)


def _share_cores(sharers: int) -> None:
    """Under a launcher each rank takes its part of the cores, unless OMP_NUM_THREADS is set.

    Torch by itself takes all of them, or under mpirun, because of MKL, a single one.
    """
    if _place.rank_variable and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(launcher.cores()) // sharers))


def _choose_backend(gpus: Sequence[str]) -> str:
    """The backend: nccl if every rank has a GPU of its own, gloo if none has any ("")."""
    different = set(gpus) - {""}
    if different and len(different) < len(gpus):
        raise ValueError(
            f"{len(gpus)} ranks see {len(different)} GPU(s), but each needs one of its own: start "
            "fewer ranks (mpirun -n), make more GPUs visible (CUDA_VISIBLE_DEVICES=0,1), or none "
            "to run on the CPU (CUDA_VISIBLE_DEVICES=)"
        )
    return "nccl" if different else "gloo"


def _leave() -> None:
    """Ends the process group and whatever would keep its threads alive."""
    if not dist.is_initialized():
        return
    for thing in gc.get_objects():
        if issubclass(type(thing), DistributedDataParallel):
            vars(thing).clear()
    gc.collect()
    dist.destroy_process_group()
