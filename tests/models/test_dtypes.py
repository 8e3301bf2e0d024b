"""What --dtype auto stands for, and that it says so."""

import re

import pytest
import torch

from flatdiff.flags.config import ModelFlags, RunFlags, parse
from flatdiff.models import dtypes, run_util


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16"), ((6, 1), "fp32")],
)
def test_of_a_gpu_its_tensor_cores_decide(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found, why = dtypes.fastest(torch.device("cuda"))
    assert found == dtype and "{}.{}".format(*capability) in why


@pytest.mark.parametrize(
    ("seconds", "dtype"), [((3.0, 1.0), "bf16"), ((1.0, 1.0), "fp32"), ((1.0, 30.0), "fp32")]
)
def test_of_a_processor_the_time_of_a_block_does(monkeypatch, seconds, dtype):
    """A clock that the autocast of the block turns: fp32 takes the first of the times."""
    clock, casting = [0.0], dtypes.casting

    def turning(name, device):
        clock[0] += seconds[name == "bf16"]
        return casting(name, device)

    monkeypatch.setattr(dtypes, "casting", turning)
    monkeypatch.setattr(dtypes.time, "thread_time", lambda: clock[0])
    found, why = dtypes.fastest(torch.device("cpu"))
    ratio = float(re.search(r"takes ([\d.]+) of fp32's", why)[1])
    assert found == dtype and ratio == pytest.approx(seconds[1] / seconds[0], abs=0.01)


def test_generator_and_threads_are_left_as_they_were():
    torch.set_num_threads(3)
    before = torch.get_rng_state()
    assert dtypes.fastest(torch.device("cpu"))[0] in ("fp32", "bf16")
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == 3


def test_what_was_asked_for_stays(monkeypatch):
    monkeypatch.setattr(dtypes, "fastest", None)
    for dtype in ("fp32", "bf16", "fp16"):
        assert dtypes.decided(RunFlags(dtype=dtype)).dtype == dtype
    assert dtypes.decided(RunFlags(dtype="auto", seed=3), "bf16", "so") == RunFlags(3, "bf16")


@pytest.mark.parametrize(
    ("auto", "half", "said"),
    [
        ((), False, "bf16, since it is quick"),
        (dtypes.OF_MEASURES, False, "fp32, since what is measured is the network"),
        (dtypes.OF_MEASURES, True, "fp16, since --use_fp16 is True"),
    ],
)
def test_a_run_says_what_it_is_and_why(monkeypatch, tmp_path, auto, half, said):
    monkeypatch.setattr(dtypes, "fastest", lambda device: ("bf16", "it is quick"))
    words = f"--dtype auto --log_dir {tmp_path} --use_fp16 {half}".split()
    flags = parse("", words, run=RunFlags, model=ModelFlags)
    run_util.open_log(flags, auto=auto)
    assert flags.run.dtype == said[:4]
    assert f"--dtype auto: {said}" in (tmp_path / "log.txt").read_text()
