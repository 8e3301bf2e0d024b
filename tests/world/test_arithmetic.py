"""Settings of arithmetic are those of a block, and afterwards what they were, by torch's names."""

import contextlib

import pytest
import torch
from torch.backends import cuda, cudnn, mkldnn

from flatdiff.world.arithmetic import arithmetic

DETERMINISTIC = {"cudnn.deterministic": True, "benchmark": False}
STRICT = {"strict": True, "warn_only": False, "fill": False, "cudnn attention": False}


def settings():
    """What torch says of itself; None where it refuses, having been told by other names."""
    read = {
        "products": lambda: cuda.matmul.allow_tf32,
        "convolutions": lambda: cudnn.allow_tf32,
        "precision": torch.get_float32_matmul_precision,
        "newer": lambda: [x.fp32_precision for x in (cuda.matmul, cudnn.conv, mkldnn.matmul)],
        "cudnn.deterministic": lambda: cudnn.deterministic,
        "benchmark": lambda: cudnn.benchmark,
        "strict": torch.are_deterministic_algorithms_enabled,
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled,
        "fill": lambda: torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn attention": cuda.cudnn_sdp_enabled,
    }
    found = dict.fromkeys(read)
    for name, of in read.items():
        with contextlib.suppress(RuntimeError, AttributeError):
            found[name] = of()
    return found


@pytest.fixture(autouse=True)
def as_before():
    """Each test begins with torch's own settings, and leaves them."""
    newer = cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, mkldnn.matmul.fp32_precision
    before = settings()
    yield
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = True, False, False
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    cuda.enable_cudnn_sdp(True)
    cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, mkldnn.matmul.fp32_precision = newer
    assert settings() == before


def plain():
    pass


def reduced():
    torch.set_float32_matmul_precision("medium")  # products of a CPU in bf16


def older():
    cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = True, False, True


def newer():
    cuda.matmul.fp32_precision, cudnn.conv.fp32_precision = "tf32", "ieee"


def strict():
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.deterministic = True


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("begin", [plain, reduced, older, newer, strict])
def test_settings_hold_in_the_block_and_are_then_what_they_were(begin, tf32, deterministic):
    begin()
    before = settings()
    with pytest.raises(KeyError), arithmetic(tf32=tf32, deterministic=deterministic):
        inside = settings()
        with arithmetic(tf32=not tf32):
            assert settings()["products"] is not tf32
        assert settings() == inside
        raise KeyError
    told = {name: value for name, value in before.items() if value is not None}
    assert settings().items() >= told.items()
    assert inside["products"] is tf32 and inside["convolutions"] is tf32
    assert (inside["newer"][0] == "tf32") == (inside["newer"][1] == "tf32") == tf32
    if not tf32:
        assert inside["precision"] == "highest" and inside["newer"][2] in ("none", "ieee")
    if deterministic or not tf32:
        assert inside.items() >= DETERMINISTIC.items()
    expected = STRICT if deterministic else {name: before[name] for name in STRICT}
    assert inside.items() >= expected.items()


def test_a_function_can_be_decorated():
    @arithmetic(tf32=True)
    def f():
        return cuda.matmul.allow_tf32

    assert f() and f() and not cuda.matmul.allow_tf32
