"""Kill runs at random moments, let them go on, and compare every number with an unbroken run's.

    python benchmarks/faults/kills.py                                # 100 rounds of kill -9
    python benchmarks/faults/kills.py --rounds 20 --only train-sam2  # one kind of run
    python benchmarks/faults/kills.py --signals TERM,INT,USR1,USR2   # of runs that are asked to end
    python benchmarks/faults/kills.py --signals STOP --rounds 4 --only train-sam2

A round kills a run one to three times, all of its ranks or one of them, and then lets it end. Runs
are forks of this process, which has imported everything: a moment is one of the run, and not of the
interpreter's start. The same seed is the same rounds. The exit status is 1 if any round differs.
"""

import argparse
import collections
import contextlib
import ctypes
import importlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from flatdiff import __main__ as flatdiff
from flatdiff.measure import evaluation, quantized, run
from flatdiff.store import checkpoint
from flatdiff.study import runner
from flatdiff.train import starting

LISTENS = 0.1  # seconds after which a run surely heeds signals
NETWORK = (
    "--image_size 8 --num_channels 32 --channel_mult 1 --num_res_blocks 1 --diffusion_steps 8 "
    "--attention_resolutions 8 --noise_schedule cosine --learn_sigma True"
).split()
TRAIN = (
    "train --data_dir {images} --dropout 0.1 --batch_size 4 --end_step 20 --save_interval 4 "
    "--log_interval 2 --ema_rate 0.9 --num_workers 0 --lr 1e-3 --resume auto"
).split() + NETWORK
STUDY = (
    "study --data_dir {images} --seeds 1 --gradient adam --end_step 4 --save_interval 2 "
    "--batch_size 4 --log_interval 2 --ema_rate 0.9 --average ema --sampling_steps 4 --bits 8 "
    "--num_samples 60 --num_draws 4 --num_images 8 --features lite0 --num_workers 0"
).split() + NETWORK
TRAININGS = {
    "adam": [],
    "sam": "--optimizer adam-sam --rho 0.1 --keep_last 1".split(),
    "swa": "--use_swa True --swa_window 4 --lr_anneal_steps 1 --keep_last 2".split(),
    "posthoc": "--posthoc_ema 4".split(),
}
MODEL = "--model_path {model}/model000020.pt --timestep_respacing 4 --batch_size 7".split()
KINDS = {
    **{f"train-{name}{n}": (n, TRAIN + more) for name, more in TRAININGS.items() for n in (1, 2)},
    "sample1": (1, ["sample", *MODEL, "--num_samples", "61"]),
    "sample2": (2, ["sample", *MODEL, "--num_samples", "61"]),
    "flatness1": (1, "flatness --model_path {model}/model000020.pt --data_dir {images} "
                  "--num_images 32 --num_draws 8 --sigma 1e-3,1e-2".split()),
    "flatness2": (2, "flatness --flatness HESSIAN --model_path {model}/model000020.pt --data_dir "
                  "{images} --num_images 32 --num_draws 4 --num_eigenvalues 2".split()),
    "packing": (1, ["sample-quant", *MODEL, *"--quant 4 --num_samples 21 --save_quantized "
                    "{out}/q.safetensors --data_dir {images}".split()]),
    "study": (1, STUDY),
}  # fmt: skip
SLOW = {"study": 5}  # of which one round in so many
SAME = (".pt", ".npz", ".safetensors", "flatness.json", "study.csv")  # what is compared
TIMES = "seconds"  # of which no two runs have the same
LIMIT = 200.0  # s that no run takes
IMPORTED = evaluation, quantized, run, runner, starting  # before any fork


def main():
    args = parse()
    torch.set_num_threads(1)
    numbers = [getattr(signal, f"SIG{name}") for name in args.signals.split(",")]
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), random.Random(args.seed), numbers, args.stopped)
        names = [name for name in KINDS if not args.only or name in args.only.split(",")]
        begun, k = time.monotonic(), 0
        while counts["rounds"] < args.rounds and time.monotonic() - begun < args.seconds:
            name, k = names[k % len(names)], k + 1
            if args.only or (k // len(names)) % SLOW.get(name, 1) == 0:
                counts.update(lab.round(name))
                counts["rounds"] += 1
                print(f"{counts['rounds']} rounds", end="\r", file=sys.stderr)
    print(", ".join(f"{counts[what]} {what}" for what in ("rounds", "deaths", "differences")))
    print(", ".join(f"{name}: {counts[name]}" for name in KINDS if counts[name]))
    sys.exit(bool(counts["differences"]))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="no round is begun later"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"kinds: {', '.join(KINDS)}")
    parser.add_argument("--signals", default="KILL", help="names of what runs are sent, at random")
    parser.add_argument("--stopped", type=float, default=120, help="seconds of a STOP, until CONT")
    return parser.parse_args()


class Lab:
    """Unbroken runs, and rounds that break others."""

    def __init__(self, folder: Path, draw: random.Random, numbers: list[int], stopped: float):
        self.folder, self.draw, self.numbers, self.stopped = folder, draw, numbers, stopped
        self.whole: dict[str, float] = {}  # seconds of each kind
        images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
        np.savez(folder / "images.npz", images)
        self.unbroken("train-adam1")

    def unbroken(self, name: str) -> Path:
        """The folder of the unbroken run of a kind."""
        out = self.folder / f"whole-{name}"
        for _ in range(0 if name in self.whole else 2):  # the second one finds all imported
            shutil.rmtree(out, ignore_errors=True)
            start = time.monotonic()
            codes = self.run(name, out)
            if any(codes):
                sys.exit(f"{name} failed without any kill: {(out / 'said0').read_text()[-2000:]}")
            self.whole[name] = time.monotonic() - start
            for module in (out / "modules").read_text().split():
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
        return out

    def round(self, name: str) -> dict[str, int]:
        """One run, broken and gone on with: its deaths, and whether anything of it differs."""
        whole, out, told, deaths = self.unbroken(name), self.folder / "broken", [], 0
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(self.draw.randint(1, 3)):
            after, number = self.draw.uniform(0, self.whole[name]), self.draw.choice(self.numbers)
            codes = self.run(name, out, after, number)
            deaths += any(codes)
            told.append(f"{signal.Signals(number).name} after {after:.2f} s: {codes}")
            if bad := [c for c in codes if not expected(c, number, len(codes), after)]:
                return self.failed(name, told, f"ended with {bad}", out)
        codes = self.run(name, out)
        wrong = [f"ended with {codes}"] if any(codes) else different(whole, out)
        if wrong:
            return self.failed(name, told, "; ".join(wrong), out)
        return {"deaths": deaths, name: 1}

    def failed(self, name: str, told: list[str], wrong: str, out: Path) -> dict[str, int]:
        said = "\n".join(path.read_text()[-1500:] for path in sorted(out.glob("said*")))
        print(f"{name}: {wrong}, after {'; '.join(told)}\n{said}", flush=True)
        return {"differences": 1, name: 1}

    def run(self, name: str, out: Path, after: float | None = None, number: int = 0) -> list[int]:
        """The exit codes of all ranks of a run, of which some are sent a signal after so long."""
        ranks, argv = KINDS[name]
        out.mkdir(exist_ok=True)
        where = {"images": self.folder / "images.npz", "out": out}
        where["model"] = self.folder / "whole-train-adam1"
        argv = [word.format(**where) for word in argv] + ["--log_dir", str(out)]
        port = free_port()
        pids = [fork(argv, rank, ranks, port, out / f"said{rank}") for rank in range(ranks)]
        if after is not None:
            time.sleep(after)
            chosen = self.draw.choice([pids, pids[:1], pids[-1:]])
            for pid in chosen:
                os.killpg(pid, number)  # with the jobs of a study
            if number == signal.SIGSTOP:
                time.sleep(self.stopped)
                for pid in chosen:
                    os.killpg(pid, signal.SIGCONT)
        return [wait(pid) for pid in pids]


def expected(code: int, number: int, ranks: int, after: float) -> bool:
    """Whether a rank may end so: done, killed, asked to end, or because another rank was killed;
    or by the signal itself, so soon that nobody listened yet."""
    if after < LISTENS and code in (1, 130, -number):
        return True
    if number == signal.SIGSTOP:
        return code == 0
    if number == signal.SIGKILL:
        return code in (0, -signal.SIGKILL) or (ranks > 1 and code == 1)
    return code in (0, 75, -signal.SIGABRT)  # which gloo does now and then while a process exits


def fork(argv: list[str], rank: int, ranks: int, port: int, said: Path) -> int:
    """The process of one rank."""
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)
        return pid
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with this process (PR_SET_PDEATHSIG)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if ranks > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
    code = 1
    try:
        flatdiff.run(argv)
        code = 0
        said.with_name("modules").write_text(" ".join(sys.modules))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        print(stop.code if isinstance(stop.code, str) else "")
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """The exit code of a process, which is killed after LIMIT seconds."""
    give_up = time.monotonic() + LIMIT
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > give_up:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 124
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(done[1])


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def different(whole: Path, out: Path) -> list[str]:
    """What of an unbroken run's results is not in the other's, bit by bit."""
    wrong = []
    for path in sorted(whole.rglob("*")):
        other = out / path.relative_to(whole)
        if path.is_file() and path.name.endswith(SAME):
            if not other.exists() and not older(other.name):
                wrong.append(f"no {other.name}")
            elif other.exists() and not alike(content(path, whole), content(other, out)):
                wrong.append(f"{other.name} differs")
    return wrong + [f"{path.name} was left" for path in out.rglob("*.flatdiff-part")]


def older(name: str) -> bool:
    """Whether --keep_last may have deleted it for the step at which a run was asked to end."""
    return name.endswith(".pt") and "000020" not in name


def content(path: Path, root: Path):
    if path.suffix == ".pt":
        return checkpoint.load(str(path))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            numbers = [
                name for name in arrays if arrays[name].dtype.kind in "iuf"
            ]  # not its record
            return {name: arrays[name].tobytes() for name in numbers}
    if path.suffix == ".json":
        return json.loads(path.read_text().replace(str(root), ""))
    if path.suffix == ".csv":
        rows = [line.split(",") for line in path.read_text().splitlines()]
        kept = [i for i, name in enumerate(rows[0]) if TIMES not in name]
        return [[row[i] for i in kept] for row in rows]
    return path.read_bytes()


def alike(a, b) -> bool:
    """The same values, and of tensors the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if torch.is_tensor(a):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return a == b


if __name__ == "__main__":
    main()
