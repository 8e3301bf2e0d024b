"""What a data script or the evaluator cannot do is a sentence on stderr and exit code 1."""

import sys

import numpy as np
import pytest
from launch import ROOT, run

pytestmark = pytest.mark.slow
IMAGES = np.zeros((2, 4, 4, 3), np.uint8)


def script(path, *args):
    return run([sys.executable, str(ROOT / path), *map(str, args)])


def is_one_sentence(done, match):
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert match in last


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    np.savez(tmp_path / "a.npz", arr_0=IMAGES)
    done = script("datasets/to_images.py", "--npz", tmp_path / "a.npz", "--out_dir", out)
    is_one_sentence(done, f"Not a directory: '{out}")


@pytest.mark.parametrize("kind", ["flipped", "float", "labels"])
def test_an_npz_that_is_not_right(kind, tmp_path):
    path = tmp_path / "a.npz"
    labels = np.array(["a", "b"]) if kind == "labels" else np.arange(2)
    np.savez(path, arr_0=IMAGES / 2 if kind == "float" else IMAGES, arr_1=labels)
    if kind == "flipped":
        data = bytearray(path.read_bytes())
        data[200] ^= 1
        path.write_bytes(data)
    done = script("datasets/to_images.py", "--npz", path, "--out_dir", tmp_path / "out")
    is_one_sentence(done, str(path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--device", " "], "device"),
        (["--device", "meta"], "device"),
        (["--json", "{}/nowhere.npz/x"], "nowhere.npz"),
    ],
)
def test_the_evaluator(flags, match, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", arr_0=rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    (tmp_path / "nowhere.npz").touch()
    flags = ["--features", "lite0", *(flag.format(tmp_path) for flag in flags)]
    npz = tmp_path / "a.npz"
    is_one_sentence(script("evaluations/evaluator.py", npz, npz, *flags), match)


@pytest.mark.parametrize("path", ["datasets/digits.py", "evaluations/evaluator.py"])
def test_folders_in_each_other_without_end(path):
    """Python makes a folder's parents by calling itself, a thousand times at most."""
    flag = {"datasets/digits.py": "--out_dir"}.get(path, "--cache_dir")
    done = script(path, flag, "x/" * 1010)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"argument {flag}: got 'x/x/" in done.stderr
    assert "at most 200 folders in each other" in done.stderr
