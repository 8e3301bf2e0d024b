"""Each example runs as a stranger runs it, from an empty folder, and what it says is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMPipeline
from launch import ROOT
from PIL import Image

EXAMPLES = ROOT / "examples"
NUMBER = r"-?\d\S*"


@pytest.fixture
def example(tmp_path):
    """A function that runs an example on words in an empty folder, and gives what it printed."""

    def run(name, *words):
        settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, EXAMPLES / name, *words]
        how = {"cwd": tmp_path, "capture_output": True, "text": True}
        done = subprocess.run(command, env=os.environ | settings, **how)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def image_of(path):
    """Its pixels [H, W, C]."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def differences(told):
    """Rows of the table of differences: (size, term, difference, error, low, high)."""
    row = rf"^(?:LPF|HESSIAN) +(\S+) +(\S+) +({NUMBER}) +({NUMBER}) +({NUMBER}) +({NUMBER})$"
    found = re.findall(row, told.partition("interval")[2], re.M)
    return [(size, term, *map(float, numbers)) for size, term, *numbers in found]


@pytest.mark.slow
def test_sam_in_your_loop(example):
    """SAM's rises are lower, and their intervals are all below 0."""
    told = example("sam_in_your_loop.py")
    rows = differences(told)
    assert {(size, term) for size, term, *_ in rows} == {
        (size, term) for size in ("0.01", "0.02") for term in ("mse", "loss", "x_mse")
    }
    for _, term, difference, error, low, high in rows:
        assert low < difference < high and error > 0
        assert term == "x_mse" or high < 0
    assert told.count("SAM's minimum is flatter") == 2


@pytest.mark.slow
def test_is_my_model_flat(example):
    """SAM's rises and curvatures are lower by every measure."""
    told = example("is_my_model_flat.py")
    rows = differences(told)
    assert len(rows) == 6 and all(low < mid < high < 0 for _, _, mid, _, low, high in rows)
    assert told.count("SAM's minimum is flatter") == 6


@pytest.mark.slow
def test_quantize_and_look(example, tmp_path):
    """Fewer bits are a longer way and a larger rise; a folder that is there is not trained anew."""
    told = example("quantize_and_look.py")
    rows = re.findall(rf"^ +([843])  +({NUMBER})  +({NUMBER})  +({NUMBER})$", told, re.M)
    bits, *columns = zip(*rows)
    distances, rises, errors = (list(map(float, column)) for column in columns)
    assert bits == ("8", "4", "3") and distances == sorted(distances)
    assert rises == sorted(rises) and rises[1] > 3 * errors[1]
    (path,) = re.findall(r"number of bits: (\S+)", told)
    picture = image_of(path)
    height = len(picture) // 4
    assert Path(path).is_absolute() and picture.std() > 20
    assert not np.array_equal(picture[:height], picture[-height:])
    folder = tmp_path / "quantized/model"
    DDPMPipeline.from_pretrained(folder)
    np.savez(tmp_path / "few.npz", arr_0=np.zeros((8, 8, 8, 1), np.uint8))
    again = example("quantize_and_look.py", folder, tmp_path / "few.npz")
    assert "training" in told and "training" not in again and ", 8 examples" in again


@pytest.mark.slow
def test_families(example):
    """The whole is the mean of its four parts, as each is a quarter of the log-SNRs; noise that is
    predicted tells least of the image where there is most of it."""
    told = example("families.py")
    tables = re.findall(r"^(.{8})" + rf" +({NUMBER})" * 5 + "$", told, re.M)
    names = [name.strip() for name, *_ in tables]
    assert names == 2 * ["eps", "v", "flow", "flow, x", "EDM"]
    values = np.array([row[1:] for row in tables], float)
    assert (values > 0).all()
    np.testing.assert_allclose(values[:, 0], values[:, 1:].mean(axis=1), rtol=0.02)
    assert values[:5, 4].argmax() == 0 and values[5:, 4].argmax() == 0
    assert re.search(r"^eps .*  sharper$", told, re.M) and told.count(" .. ") == 4
