"""Starts a program on several ranks, as a user does, and leaves no process behind."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = (
    "--image_size 8 --num_channels 32 --channel_mult 1 --num_res_blocks 1 --learn_sigma True "
    "--attention_resolutions 4 --diffusion_steps 50 --noise_schedule cosine --dropout 0.2 "
    "--lr 1e-3 --ema_rate 0.9 --log_interval 2 --random_flip False --num_workers 0"
).split()


def script(name: str) -> str:
    return str(ROOT / "scripts" / f"{name}.py")


def succeed(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert done.returncode == 0, done.stderr
    return done


def mpirun(ranks: int, *args, **kwargs) -> subprocess.CompletedProcess:
    """`mpirun -n RANKS python ARGS`."""
    program = Path(sys.executable).parent / "mpirun"
    return run([program, "-n", ranks, sys.executable, *args], **kwargs)


def torchrun(ranks: int, *args, **kwargs) -> subprocess.CompletedProcess:
    """`torchrun --nproc-per-node RANKS ARGS`."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return run([*program, "--nproc-per-node", ranks, *args], **kwargs)


def run(command, timeout: float = 120, **env) -> subprocess.CompletedProcess:
    """Runs to the end with more environment variables; after `timeout` seconds ends it all."""
    process = start(command, **env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        out, err = process.communicate(timeout=20)
        raise AssertionError(f"still running after {timeout} s:\n{out}\n{err}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def running(text: str) -> list[int]:
    """The processes whose command line has the text."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has just ended
            if text in Path(f"/proc/{entry}/cmdline").read_text():
                found.append(int(entry))
    return found


def start(command, **env) -> subprocess.Popen:
    """Starts without waiting, on one thread of the CPU unless told otherwise."""
    path = f"{ROOT}:{ROOT / 'tests'}"
    ours = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **ours, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
