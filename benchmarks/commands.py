"""Commands as a user types them, timed from outside: to the end, or until they say something."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
TRAIN = ROOT / "scripts" / "image_train.py"
THEIR_IMPORTS = "from guided_diffusion import dist_util, image_datasets, script_util, train_util"


def seconds_to_end(*command) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, env=_environment(), stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def seconds_to_line(text: str, *command) -> float:
    """Until a line of the output holds the text; then the command may end by itself."""
    start = time.perf_counter()
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=_environment(), text=True, **pipe) as process:
        found = [time.perf_counter() - start for line in process.stdout if text in line]
    if not found:
        raise RuntimeError(f"{' '.join(map(str, command))} ended without saying {text!r}")
    return found[0]


def slowest_help() -> float:
    """Seconds of --help of the script that takes longest."""
    return max(seconds_to_end(sys.executable, script, "--help") for script in SCRIPTS)


def their_imports() -> float:
    """Seconds of what guided-diffusion's scripts import before they read their flags."""
    return seconds_to_end(sys.executable, "-W", "ignore", "-c", THEIR_IMPORTS)


def first_step(job, folder: str) -> float:
    """Seconds from the command to the first logged step of image_train.py."""
    flags = training_flags(job, folder, job.config.batch, steps=1, interval=1)
    return seconds_to_line("grad_norm", sys.executable, TRAIN, *flags)


def training_flags(job, folder: str, batch: int, steps: int, interval: int) -> list[str]:
    return [
        *job.config.flags.split(),
        *("--data_dir", f"{job.folder}/images.npz", "--log_dir", folder),
        *("--batch_size", str(batch), "--dropout", "0"),
        *("--end_step", str(steps), "--log_interval", str(interval)),
    ]


def mpirun() -> str | None:
    """The launcher beside this python, or that of the PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun")


def train_on(ranks: int, job, folder: str, steps: int) -> tuple[float, float]:
    """(images/s as reported, mean loss) of two shares of the batch, by 1 or 2 ranks on 2 threads.

    The images, timesteps and noise are the same for both, so the losses are too. Both are those of
    the second half of the steps: what is allocated in the first ones is not measured.
    """
    flags = training_flags(job, folder, 2 * job.config.batch // ranks, steps, steps // 2)
    launcher = [] if ranks == 1 else [mpirun(), "-n", str(ranks)]
    command = [*launcher, sys.executable, TRAIN, *flags]
    environment = _environment(OMP_NUM_THREADS=str(2 // ranks))
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    rates = re.findall(r"images/s=([\d.e+]+)", done.stderr)
    last = Path(folder, "progress.json").read_text().splitlines()[-1]
    return float(rates[-1]), json.loads(last)["loss"]


def _environment(**more: str) -> dict[str, str]:
    """Ours on the path, whatever the folder that it is started in."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | more
