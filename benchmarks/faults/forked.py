"""A script of the project in a forked child of a process that has everything imported.

So a run costs what it does, and not the seconds of importing torch. What became of it is a Run:
how it ended, what it said, the memory it held. CPU time, wall time and addresses have bounds.
"""

import importlib
import os
import pkgutil
import resource
import runpy
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / name) for name in ("scripts", "evaluations", "datasets"))]

CPU_S, WALL_S = (
    10,
    60,
)  # a machine may be busy: that a run hangs is said by its CPU time, or by both
MEMORY = 1 << 30  # bytes that a run may hold above what it began with
ROOM = 3 << 30  # of addresses: what a file claims beyond is refused by the system


class Run(NamedTuple):
    """kind: accepted, refused, traceback, crash, hang or memory; said: the end of stderr."""

    kind: str
    said: str
    megabytes: int
    seconds: float


def prepare() -> None:
    """Import what scripts import, so that children do not."""
    import safetensors.torch  # noqa: F401
    import torch

    import flatdiff

    assert Path(flatdiff.__file__).is_relative_to(ROOT), flatdiff.__file__
    from flatdiff.kernels import build

    torch.set_num_threads(1)
    build.use()
    for module in pkgutil.walk_packages(flatdiff.__path__, "flatdiff."):
        if not module.name.startswith(("flatdiff.scripts", "flatdiff.datasets", "flatdiff.eval")):
            importlib.import_module(module.name)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True)


def run(script: str, words: list[str], box: Path) -> Run:
    """Run `scripts/x.py` with these words; it works in `box`, whose files said and heard are."""
    begun, held = time.monotonic(), _size("VmRSS") * 1024
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            _child(script, words, box)
        finally:
            os._exit(99)
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - begun
        if ended:
            break
        if seconds > WALL_S:
            os.killpg(pid, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
            break
        time.sleep(0.002)
    said = (box / "stderr").read_text(errors="replace").replace("\r", "\n").strip()
    grown = used.ru_maxrss * 1024 - held
    kind = _kind(status, said, seconds, grown)
    return Run(kind, said[-3000:], max(0, grown) >> 20, seconds)


def _kind(status: int, said: str, seconds: float, grown: int) -> str:
    if seconds > WALL_S or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return "hang"
    if os.WIFSIGNALED(status):
        return "crash"
    if grown > MEMORY:
        return "memory"
    if "Traceback (most recent call last)" in said:
        return "traceback"
    return "refused" if os.WEXITSTATUS(status) else "accepted"


def _child(script: str, words: list[str], box: Path) -> None:
    os.setpgid(0, 0)
    for target, name, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, box / "stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, box / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(name, how), target)
    bounds = {
        resource.RLIMIT_AS: _size("VmSize") * 1024 + ROOM,
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 1 << 30,
    }
    for name, most in bounds.items():
        resource.setrlimit(name, (most, most + (name == resource.RLIMIT_CPU)))
    os.environ |= {"TMPDIR": str(box), "HOME": str(box)}
    os.chdir(box)
    sys.argv = [script, *words]
    code = 0
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _size(name: str) -> int:
    """KiB of this process, as /proc tells them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def emptied(folder: Path) -> Path:
    """The folder, new."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
