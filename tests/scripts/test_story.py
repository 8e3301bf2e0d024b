"""The story end to end as a user runs it: digits, two ranks, SAM, a kill, a resume, samples."""

import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import ROOT, TINY, mpirun, run, running, script, start, succeed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "digits"
    succeed(run([sys.executable, ROOT / "datasets/digits.py", "--out_dir", folder]))
    return str(folder)


def train(ranks, data_dir, log_dir, *flags):
    args = [script("image_train"), "--data_dir", data_dir, *TINY, "--log_dir", log_dir, *flags]
    return mpirun(ranks, *args) if ranks > 1 else run([sys.executable, *args])


def same(a, b):
    """Two files hold the same tensors, bit for bit."""
    a, b = (torch.load(path, weights_only=True) for path in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("flags", ["--optimizer adam", "--optimizer adam-sam --sam_sync True"])
def test_two_ranks_are_one_rank_with_the_joined_batch(digits, tmp_path, flags):
    flags = [*flags.split(), "--rho", "0.2", "--dropout", "0", "--end_step", "1"]
    succeed(train(2, digits, tmp_path / "two", "--batch_size", "4", *flags))
    succeed(train(1, digits, tmp_path / "one", "--batch_size", "8", *flags))
    two, one = (
        torch.load(tmp_path / name / "opt000001.pt", weights_only=True)["state"]
        for name in ("two", "one")
    )
    # after one step of AdamW the first moment is a tenth of the gradient, the second its size
    for i in one:
        a, b, size = two[i]["exp_avg"], one[i]["exp_avg"], one[i]["exp_avg_sq"].sqrt().mean()
        assert (a - b).abs().max() <= 1e-3 * size + 1e-9, i


def test_a_killed_run_goes_on_to_the_same_weights_and_can_be_sampled(digits, tmp_path):
    flags = "--optimizer adam-sam --rho 0.2 --use_swa True --swa_window 3 --batch_size 4".split()
    flags += ["--save_interval", "2", "--end_step", "60"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    said = succeed(train(2, digits, whole, *flags)).stdout
    for words in ("global batch: 8 (2 ranks x 4)", "adam-sam with rho 0.2", "SWA of every 3 steps"):
        assert words in said

    command = [Path(sys.executable).parent / "mpirun", "-n", 2, sys.executable]
    command += [script("image_train"), "--data_dir", digits, *TINY, "--log_dir", killed, *flags]
    process = start(command)
    wait_for(killed / "state000002.pt", process)
    process.send_signal(signal.SIGTERM)  # which mpirun passes on
    out, err = process.communicate()
    (told,) = re.findall("stopped by SIGTERM: saved .*/model(.*).pt; the same command with", out)
    assert process.returncode == 75 and not re.search("Traceback|rank 1: stopped", err)
    assert (killed / f"state{told}.pt").exists()

    command += ["--resume", "auto"]
    process = start(command)
    wait_for(killed / f"state{int(told) + 2 - int(told) % 2:06}.pt", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for _ in range(3000):  # the ranks notice that their launcher is gone
        if not running(str(killed)):
            break
        time.sleep(0.02)
    assert not (killed / "state000060.pt").exists(), "it was over before it was killed"
    succeed(train(2, digits, killed, *flags, "--resume", "auto"))
    for name in ("model000060.pt", "ema_0.9_000060.pt", "swa_000060.pt"):
        assert same(whole / name, killed / name), name
    steps = np.genfromtxt(killed / "progress.csv", delimiter=",", names=True)["step"]
    assert sorted({*steps} - {int(told)}) == [n for n in range(2, 61, 2) if n != int(told)]

    sample = [script("image_sample"), "--model_path", killed / "swa_000060.pt", "--num_samples", 7]
    sample += ["--timestep_respacing", 10, "--seed", 3]
    succeed(mpirun(2, *sample, "--batch_size", 2, "--log_dir", tmp_path / "a"))
    succeed(run([sys.executable, *sample, "--batch_size", 7, "--log_dir", tmp_path / "b"]))
    a, b = (np.load(tmp_path / x / "samples_7x8x8x3.npz")["arr_0"].astype(int) for x in "ab")
    assert a.shape == (7, 8, 8, 3) and np.abs(a - b).max() <= 1
    assert (tmp_path / "a" / "samples_7x8x8x3.png").exists()


def wait_for(path, process):
    for _ in range(6000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_dir", "nowhere"], "nowhere"),
        (["--resume_checkpoint", "nowhere/model000007.pt"], "nowhere/model000007.pt"),
    ],
)
def test_bad_input_is_one_sentence_on_all_ranks(digits, tmp_path, flags, message):
    done = mpirun(
        2, script("image_train"), "--data_dir", digits, *TINY, *flags, "--log_dir", tmp_path
    )
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda p: p.stem)
def test_every_script_has_help(path):
    done = succeed(run([sys.executable, path, "--help"]))
    assert "--seed" in done.stdout and "default" in done.stdout
