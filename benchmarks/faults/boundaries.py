"""Death at every file boundary of a run, and the order of its system calls, for loss of power.

    PYTHONPATH=. .venv/bin/python benchmarks/faults/boundaries.py [CASE ...] [--every N]

A tiny training or packing dies before each file operation in its folder (opening, first write, half
of the bytes, fsync, rename, removal), and then goes on to the bytes of a run that never died. By
strace: what a name leads to was on the disk before it. Exit status 1 where a count is not 0.
"""

import argparse
import csv
import hashlib
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
ROOT = Path(__file__).parents[2]
NET = (
    "--image_size 8 --num_channels 32 --channel_mult 1 --num_res_blocks 1 --learn_sigma True "
    "--attention_resolutions 8 --diffusion_steps 8 --noise_schedule cosine"
).split()
TRAIN = (
    "--batch_size 2 --end_step 4 --save_interval 2 --log_interval 2 --ema_rate 0.9 --lr 1e-3 "
    "--dropout 0.1 --num_workers 0 --random_flip False --resume auto"
).split()
CASES = {  # a training's own flags; None: packing
    "adam": "",
    "sam": "--optimizer adam-sam --keep_last 1",
    "swa": "--use_swa True --swa_window 1 --keep_last 1",
    "posthoc": "--posthoc_ema 1",
    "packing": None,
}


# A script in a forked child, which has everything imported


def prepare(folder: Path) -> Path:
    """Import what scripts import, and make twelve images; returns their file."""
    import numpy as np
    import torch
    from torch.utils import tensorboard  # noqa: F401

    import flatdiff
    from flatdiff.measure import quantized  # noqa: F401
    from flatdiff.store import disk  # noqa: F401
    from flatdiff.train import starting  # noqa: F401

    assert Path(flatdiff.__file__).is_relative_to(ROOT), flatdiff.__file__
    torch.set_num_threads(1)
    shape = (12, 8, 8, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(folder / "images.npz", images)
    return folder / "images.npz"


def forked(script: str, words: list, said: Path, before=lambda: None, limit: float = 300) -> int:
    """The exit status of `scripts/x.py` with these words, -9 for a death; `said` is its output."""
    pid = os.fork()
    if not pid:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv, code = [script, *map(str, words)], 0
        sys.path.insert(0, str(ROOT / "scripts"))
        try:
            before()
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException as error:
            print(repr(error))
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end = time.monotonic() + limit
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(done[1])


# File operations


class Operations:
    """Counts the operations on files below a folder, and tells `act` of each before it is done."""

    def __init__(self, folder: Path, act):
        self.folder, self.act, self.count = str(folder), act, 0

    def __call__(self, name: str, path) -> None:
        if str(path).startswith(self.folder):
            self.count += 1
            self.act(self.count, name, str(path))

    def install(self) -> None:
        """For the rest of this process."""
        import builtins

        from flatdiff.store import disk

        fsync = os.fsync

        def told(descriptor):
            descriptor = getattr(descriptor, "fileno", lambda: descriptor)()
            self("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            return fsync(descriptor)

        os.fsync = told

        def opened(path, *how, **more):
            return Torn(builtins.open(path, *how, **more), path, self)

        disk.open = opened
        sys.addaudithook(self.audit)

    def audit(self, event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
            self("open", args[0])
        if event in ("os.rename", "os.remove", "os.mkdir"):
            self(event.removeprefix("os."), args[1] if event == "os.rename" else args[0])


class Torn:
    """A file of `disk.writing`, of which two writes are operations: the first, and a later one once
    half of it is written."""

    def __init__(self, file, path, operations: Operations):
        self.file, self.path, self.operations, self.writes = file, path, operations, 0

    def write(self, data):
        self.writes += 1
        if self.writes == 1:
            self.operations("write", self.path)
        if self.writes == 9:
            half = len(data) // 2
            self.file.write(data[:half])
            self.file.flush()
            self.operations("half", self.path)
            return half + self.file.write(data[half:])
        return self.file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __iter__(self):
        return iter(self.file)

    def __getattr__(self, name):
        return getattr(self.file, name)


def die_at(k: int, folder: Path):
    """What to do in a child before it begins: to die before operation k."""

    def act(count, *_):
        if count == k:
            os.kill(os.getpid(), signal.SIGKILL)

    return Operations(folder, act).install


def record(folder: Path, path: Path):
    """What to do in a child before it begins: to write its operations into a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    write = lambda k, name, of: os.write(file, f"{name} {of}\n".encode())  # noqa: E731
    return Operations(folder, write).install


# A case


def command(case: str, images: Path, box: Path, folder: Path) -> tuple[str, list]:
    if CASES[case] is not None:
        words = ["--data_dir", images, *NET, *TRAIN, *CASES[case].split(), "--log_dir", folder]
        return "scripts/image_train.py", words
    quant = "--quant 4 --quant_granularity channel --num_samples 4 --batch_size 2 --seed 1".split()
    words = ["--model_path", box / "model" / "model000004.pt", *quant, "--log_dir", folder]
    return "scripts/image_sample_quant.py", [*words, "--save_quantized", folder / "a.safetensors"]


def kept(folder: Path) -> dict[str, object]:
    """What a death may not change: checkpoints by their bytes, samples by their arrays, the loss by
    step; and whatever may not be left behind."""
    import numpy as np

    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".pt", ".safetensors"):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.name] = {name: arrays[name].tobytes() for name in ("arr_0",)}
        elif path.name == "progress.csv":
            with open(path, newline="") as file:
                found[path.name] = [(row["step"], row["loss"]) for row in csv.DictReader(file)]
        elif path.name.endswith((".flatdiff-part", ".damaged")):
            found[path.name] = "left behind"
    return found


def deaths(case: str, images: Path, box: Path, every: int) -> int:
    """Die at every operation, go on, compare; returns the number of failures."""
    whole, said, log = box / f"{case}-whole", box / "said", box / "operations"
    script, words = command(case, images, box, whole)
    if status := forked(script, words, said, record(whole, log)):
        raise SystemExit(f"{case}: the whole run ended with {status}: {said.read_text()[-2000:]}")
    operations = log.read_text().splitlines()
    expected, failures, died = kept(whole), 0, 0
    points = range(1, len(operations) + 1, every)
    for k in points:
        folder = box / f"{case}-{k}"
        script, words = command(case, images, box, folder)
        died += forked(script, words, said, die_at(k, folder)) == -signal.SIGKILL
        status = forked(script, words, said)
        found = kept(folder) if folder.exists() else {}
        if "--keep_last" in words:  # it keeps the step that it went on from, too
            found = {n: x for n, x in found.items() if n in expected or "000002.pt" not in n}
        if status or found != expected:
            names = [n for n in {*found, *expected} if found.get(n) != expected.get(n)]
            print(f"  {case}, {k} {operations[k - 1]}: status {status}, differ: {sorted(names)}")
            print(f"    {said.read_text()[-300:]}" if status else "", end="")
            failures += 1
        shutil.rmtree(folder, ignore_errors=True)
    text = f"{case}: {died} deaths at {len(points)} of {len(operations)} file operations"
    print(f"{text}, {failures} runs that did not go on to the same bits", flush=True)
    return failures + (died != len(points))


# The order of calls

CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*?)(?:\) += \d+| <unfinished)")  # or waited for
STRACE = "openat,rename,renameat,renameat2,unlink,unlinkat,fsync,fdatasync,write,pwrite64"


def traced(script: str, words: list, folder: Path, log: Path) -> list[tuple[str, str]]:
    """(write, fsync, rename or remove; path) in the order of system calls in the folder."""
    strace = ["strace", "-f", "-y", "-qq", "-e", f"trace={STRACE}", "-o", log, sys.executable]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env}
    subprocess.run([*map(str, strace), ROOT / script, *map(str, words)], check=True, **quiet)
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if not (call := CALL.match(line)):
            continue
        name, arguments = call[1], call[2]
        if name.startswith("rename"):
            found.append(("rename", re.findall(r'"(.*?)"', arguments)[1]))
        elif name.startswith("unlink"):
            found.append(("remove", re.findall(r'"(.*?)"', arguments)[0]))
        elif name != "openat" and (path := re.match(r"\d+<(.*?)>", arguments)):
            found.append((name.replace("pwrite64", "write").replace("fdata", "f"), path[1]))
    return [(name, path) for name, path in found if path.startswith(str(folder))]


def unsafe(calls: list[tuple[str, str]], folder: Path) -> list[str]:
    """Where a loss of power could leave a name without its content, a state without what it names,
    or neither an older step nor a newer one."""
    wrong, dirty, loose = [], set(), set()  # files with bytes, and names, that may be lost
    for name, path in calls:
        if name == "write":
            dirty.add(path)
        elif name == "fsync" and path == str(folder):
            loose.clear()
        elif name == "fsync":
            dirty.discard(path)
        elif name == "rename":
            if f"{path}.flatdiff-part" in dirty:
                wrong.append(f"{path} has its name before its bytes")
            if Path(path).name.startswith("state") and loose:
                wrong.append(f"{path} has its name before {sorted(loose)}")
            loose.add(path)
        elif name == "remove" and path.endswith(".pt") and loose:
            wrong.append(f"{path} is removed before {sorted(loose)} are on the disk")
    return wrong


def power(case: str, images: Path, box: Path) -> int:
    """Look at the order of a run's calls; returns the number of orders that are not safe."""
    folder, log = (box / f"{case}-traced").resolve(), box / "trace"
    calls = traced(*command(case, images, box, folder), folder, log)
    counts = {
        name: sum(call == name for call, _ in calls) for name in ("fsync", "rename", "remove")
    }
    folders = sum(call == ("fsync", str(folder)) for call in calls)
    wrong = unsafe(calls, folder)
    print("".join(f"  {line}\n" for line in wrong), end="")
    print(
        f"{case}: {counts['fsync'] - folders} files and {folders} times the folder by fsync, "
        f"{counts['rename']} renames, {counts['remove']} removals: {len(wrong)} orders unsafe"
    )
    return len(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default all: {', '.join(CASES)}")
    parser.add_argument("--every", type=int, default=1, help="at each N-th operation; default 1")
    parser.add_argument("--without_deaths", action="store_true", help="the order of calls alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        box = Path(name).resolve()
        images, wrong = prepare(box), 0
        script, words = command("adam", images, box, box / "model")
        if forked(script, words, box / "said"):
            raise SystemExit((box / "said").read_text()[-2000:])
        for case in args.cases or CASES:
            wrong += 0 if args.without_deaths else deaths(case, images, box, args.every)
            wrong += power(case, images, box) if shutil.which("strace") else 0
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
