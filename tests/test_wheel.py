"""The wheel, in a virtual environment that has no other flatdiff, run from an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SOURCE = "flatdiff scripts datasets evaluations setup.py pyproject.toml README.md LICENSE".split()
MODEL = (
    "--image_size 8 --num_channels 32 --channel_mult 1 --num_res_blocks 1 --learn_sigma True "
    "--attention_resolutions 4 --diffusion_steps 20 --noise_schedule cosine --num_workers 0 "
)


def run(command, folder):
    """Its output; with nothing of this process's Python, and on one thread."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    ours |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=folder, env=ours, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from what an sdist holds, of a copy of the sources without their git."""
    folder = tmp_path_factory.mktemp("wheel")
    source, ignore = folder / "source", shutil.ignore_patterns("__pycache__", "*.egg-info")
    source.mkdir()
    for path in map(ROOT.joinpath, SOURCE):
        if path.is_dir():
            shutil.copytree(path, source / path.name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(path, source)
    run([sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", folder], source)
    (archive,) = folder.glob("*.tar.gz")
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir"]
    run([sys.executable, "-m", "pip", "wheel", archive, *offline, "-w", folder], folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def flatdiff(wheel, tmp_path_factory):
    """A function that runs the wheel's `flatdiff LINE` in an empty folder, and that folder."""
    home, folder = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("empty")
    venv.create(home, with_pip=True)
    run([home / "bin/pip", "install", "--no-deps", "--no-index", wheel], folder)
    # What it needs is in the environment of this test. Folders that a .pth file names are searched
    # last, and their own .pth files, as that of an editable flatdiff, are not read.
    (packages,) = home.glob("lib/python*/site-packages")
    theirs = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (packages / "theirs.pth").write_text("\n".join(theirs))
    where = "import flatdiff; print(flatdiff.__file__)"
    assert run([home / "bin/python", "-c", where], folder).startswith(str(packages))
    return lambda line: run([home / "bin/flatdiff", *line.split()], folder), folder


def test_all_that_the_sources_hold_is_in_it(wheel):
    """But the folders' own __init__.py, which those of scripts do without."""
    names = set(zipfile.ZipFile(wheel).namelist())
    kinds = ("*.py", "*.cpp", "py.typed")
    package = [p.relative_to(ROOT) for kind in kinds for p in (ROOT / "flatdiff").rglob(kind)]
    folders = [p.relative_to(ROOT) for d in SOURCE[1:4] for p in (ROOT / d).glob("*.py")]
    assert {str(p) for p in package} | {f"flatdiff/{p}" for p in folders} <= names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"flatdiff"}


def test_a_network_is_trained_sampled_and_judged(flatdiff):
    run, _ = flatdiff
    assert "classifier-train" in run("--help") and run("--version").count(".") == 2
    run("data digits --out_dir digits")
    run(
        f"train --data_dir digits {MODEL} --batch_size 4 --ema_rate 0.9 --end_step 2 "
        "--save_interval 2 --random_flip False --log_dir run"
    )
    run("sample --model_path run/model000002.pt --num_samples 20 --batch_size 20 --log_dir run")
    said = run("evaluate digits run/samples_20x8x8x3.npz --features digits --cache_dir cache")
    assert "FD-digits" in said


def test_the_readmes_study_from_an_empty_folder(flatdiff):
    run, folder = flatdiff
    run(
        "study --preset digits --seeds 1 --gradient adam --average none --end_step 4 "
        "--save_interval 4 --channel_mult 1 --num_res_blocks 1 --diffusion_steps 20 --jobs 1 "
        "--num_samples 20 --num_images 6 --num_draws 4 --sampling_steps 3 --bits 4 "
        "--log_dir runs/study-digits"
    )
    page = (folder / "runs/study-digits/report.html").read_text()
    assert page.count("<img") >= 4
