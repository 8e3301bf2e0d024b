"""What training, sampling and measuring ask of a GPU, counted on a device that is not there.

That they run at all says that no operator mixes devices. `cases` runs them, in one process; a
budget that is too small, or that could be smaller, is written anew by its --write-budget.
"""

import json
import shutil
import sys
from pathlib import Path

import launch
import pytest
import torch

from flatdiff.flags.choices import FLATNESS, GRADIENTS, SAMPLERS
from flatdiff.kernels import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, build.COMPILERS)), reason="there is no C++ compiler"
    ),
    pytest.mark.skipif(
        torch.version.cuda is not None, reason="the stub goes under a CPU build of torch"
    ),
]
HERE = Path(__file__).parent
BUDGET = json.loads((HERE / "budget.json").read_text())
SLACK = 1.1  # a budget above this times what is asked for hides what may come
TRAINING = [name for name in BUDGET if name.startswith("train ")]
SAMPLING = [name for name in BUDGET if name.startswith("sample ")]
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@pytest.fixture(scope="module")
def found():
    """What each case asked for."""
    command = [sys.executable, HERE / "cases.py"]
    done = launch.run(command, timeout=400)
    return json.loads(launch.succeed(done).stdout)


def case(found, name):
    assert "error" not in found[name], found[name]["error"]
    return found[name]


def test_what_flags_can_name_has_a_budget(found):
    assert BUDGET.keys() == {name for name in found if not name.startswith(("fault", "known"))}
    assert {f"train bf16 {name}" for name in GRADIENTS} < BUDGET.keys()
    assert {f"sample {name}" for name in SAMPLERS} < BUDGET.keys()
    assert FLATNESS.keys() < BUDGET.keys()


@pytest.mark.parametrize("name", BUDGET)
def test_the_budget_is_kept_and_no_larger_than_it_must_be(found, name):
    asked = case(found, name)
    for what, limit in BUDGET[name].items():
        assert asked[what] <= limit, (what, asked["waited"], asked["turned"])
        assert limit <= asked[what] * SLACK, f"{what} is {asked[what]} now: lower its budget"


@pytest.mark.parametrize("name", TRAINING)
def test_a_step_waits_for_nothing_and_keeps_fp32_on_the_device(found, name):
    step = case(found, name)
    # fp16 has to know of an overflow before it takes the step
    assert step["waits"] == ("fp16" in name), step["waited"]
    assert step["devices"] == ["cuda:0"]
    assert step["kinds"] == ["torch.float32"]  # weights, gradients, moments, averages, the log
    assert not step["doubles"]
    assert step["averaged"] == [2, 2]  # EMA and SWA, in both steps


@pytest.mark.parametrize("name", TRAINING)
def test_a_step_computes_in_the_type_that_was_asked_for(found, name):
    assert case(found, name)["flops"].keys() == {DTYPES[name.split()[1]]}


@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_waits_once_a_batch_and_computes_in_bf16(found, name):
    batch = case(found, name)
    assert batch["waits"] == 1, batch["waited"]
    assert batch["flops"].keys() == {"bfloat16"}
    assert not batch["doubles"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sam_is_exactly_two_passes_and_little_more(found, dtype):
    adam, sam = (case(found, f"train {dtype} {name}") for name in ("adam", "adam-sam"))
    (once,), (twice,) = adam["flops"].values(), sam["flops"].values()
    assert twice == 2 * once
    assert sam["kernels"] < 2.02 * adam["kernels"]
    assert sam["bytes"] < 2.1 * adam["bytes"]


@pytest.mark.parametrize("name", [n for n in GRADIENTS if n not in ("adam", "adam-sam")])
def test_other_gradients_take_the_passes_that_they_say(found, name):
    adam, other = (case(found, f"train bf16 {n}") for n in ("adam", name))
    (once,), (all_passes,) = adam["flops"].values(), other["flops"].values()
    assert all_passes == GRADIENTS[name].passes * once


def test_tritons_norm_leaves_images_as_they_lie(found):
    pytorch, triton = (case(found, f"train bf16 adam{end}") for end in (", PyTorch's norm", ""))
    # but the batch of images, for the first layer and its gradient, and the output's gradient
    assert triton["layout_changes"] == 3, triton["turned"]
    assert triton["flops"] == pytorch["flops"]
    assert triton["bytes"] < 0.8 * pytorch["bytes"]


def test_what_is_known_of_an_operator_is_what_is_counted(found):
    known = case(found, "known")
    image, weight = 4 * 2 * 32 * 16, 4 * 64 * 32 * 9  # bytes

    def asked(name, *what):
        return tuple(known[name][key] for key in what)

    counts = "kernels", "bytes", "layout_changes", "waits"
    assert asked("sum", *counts) == (1, 2 * image, 0, 0)
    assert asked("in place", *counts) == (1, 2 * image, 0, 0)
    assert asked("view", *counts) == (0, 0, 0, 0)
    conv = 1, image + weight + 2 * image, 0, 0
    assert asked("conv", *counts, "flops") == (*conv, {"float32": 2 * 2 * 16 * 64 * 32 * 9})
    assert asked("conv by channels", *counts) == (3, conv[1] + 4 * image, 2, 0)
    assert asked("foreach", "kernels", "waits") == (111 + 2, 0)
    assert asked("attention", "flops") == ({"float32": 2 * 2 * (2 * 32) * 4 * 4 * 4},)
    assert [known[name]["waits"] for name in ("mask", "if", "scalar")] == [1, 1, 0]


def test_faults_in_a_step_are_told(found):
    clean, sam = case(found, "fault none"), case(found, "fault none in SAM")
    assert clean["waits"] == len(clean["doubles"]) == 0
    (once,), (twice,) = clean["flops"].values(), sam["flops"].values()
    assert twice == 2 * once
    assert "at least two devices" in found["fault a tensor on the host"]["error"]
    (waited,) = case(found, "fault an item")["waited"]
    assert waited.startswith("item at train_util.py:")
    assert case(found, "fault float64")["doubles"]
    assert "torch.bfloat16" in case(found, "fault an average in bf16")["kinds"]
    assert case(found, "fault a third pass")["flops"] == {"bfloat16": 3 * once}
    assert case(found, "fault an image by channels")["layout_changes"] > clean["layout_changes"]
    assert "float32" in case(found, "fault a layer in fp32")["flops"]
