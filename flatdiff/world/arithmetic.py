"""Which kernels of a GPU a block may use: tf32 for fp32, and any or those that repeat their bits.

torch keeps this in settings of the whole process; here they last as long as the block. On a CPU a
computation repeats its bits as it is, and fp32 is fp32 unless the process has asked for less.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.backends import cuda, cudnn, mkldnn
from torch.utils import deterministic as debugging


@contextlib.contextmanager
def arithmetic(*, tf32: bool, deterministic: bool = False) -> Iterator[None]:
    """Let fp32 products and convolutions round their inputs to tf32 (fp32 with 10 bits of fraction)
    in the block, or decorated function. All settings are afterwards what they were.

    Training and sampling let them. Measuring, of small differences of losses, does not, and has
    convolutions that repeat their bits. With `deterministic` everything repeats its bits, or raises
    torch's RuntimeError where that cannot be; a GPU then needs CUBLAS_WORKSPACE_CONFIG=:4096:8 in
    the environment before its first product, as scripts have it.
    """
    settings = _settings()
    try:
        if not tf32:
            torch.set_float32_matmul_precision("highest")
        cuda.matmul.allow_tf32 = cudnn.allow_tf32 = tf32
        if deterministic or not tf32:
            cudnn.deterministic, cudnn.benchmark = True, False
        if deterministic:
            torch.use_deterministic_algorithms(True)  # those of attention, too: cuDNN has none
            cuda.enable_cudnn_sdp(False)
            debugging.fill_uninitialized_memory = False  # which finds bugs, and is slow
        yield
    finally:
        for give_back in settings:
            give_back()


def _settings() -> list[Callable[[], None]]:
    """Return functions that set what is set now, to be called in this order.

    torch has older and newer names for tf32. The older ones write the newer ones too, so they come
    first; where the newer ones were used they may not be read, and are then left out.
    """
    strict = torch.are_deterministic_algorithms_enabled()
    how = {"warn_only": torch.is_deterministic_algorithms_warn_only_enabled()}
    found = [
        partial(torch.use_deterministic_algorithms, strict, **how),
        partial(cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled()),
    ]

    def keep(of, name):
        with contextlib.suppress(RuntimeError, AttributeError):
            found.append(partial(setattr, of, name, getattr(of, name)))

    keep(debugging, "fill_uninitialized_memory")
    for name in ("deterministic", "benchmark", "allow_tf32"):
        keep(cudnn, name)
    keep(cuda.matmul, "allow_tf32")
    with contextlib.suppress(RuntimeError):
        precision = torch.get_float32_matmul_precision()
        found.append(partial(torch.set_float32_matmul_precision, precision))
    for of, part in ((cuda, "matmul"), (cudnn, "conv"), (cudnn, "rnn"), (mkldnn, "matmul")):
        keep(getattr(of, part, None), "fp32_precision")
    return found
