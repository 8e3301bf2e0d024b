"""A CUDA device that is not there, under a CPU build of torch; to be imported before torch.

`with device() as watch:` there is one, and `watch` counts what it is asked for.
"""

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

SOURCE = Path(__file__).with_name("stub.cpp")
COMPILERS = "g++", "c++"


def load() -> None:
    """Put the stub under torch: compiled at first use, kept in ~/.cache/flatdiff.

    OSError: no C++ compiler, or it fails. RuntimeError: torch was there before, or has CUDA.
    """
    if "torch" in sys.modules:
        raise RuntimeError("import fakecuda before torch, which looks for devices once")
    torch = Path(importlib.util.find_spec("torch").origin).parent
    if (torch / "lib" / "libtorch_cuda.so").exists():
        raise RuntimeError("this torch has CUDA; the fake device goes under a CPU build of it")
    version = (torch / "version.py").read_text()
    key = hashlib.sha256((SOURCE.read_text() + version).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "flatdiff")
    library = cache / f"fakecuda-{key}.so"
    if not library.exists():
        compile_to(library, torch)
    for name in ("torch_global_deps", "c10", "torch_cpu"):
        ctypes.CDLL(f"{torch}/lib/lib{name}.so", ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))


def compile_to(library: Path, torch: Path) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise OSError(f"no C++ compiler: none of {', '.join(COMPILERS)} is on the PATH")
    library.parent.mkdir(parents=True, exist_ok=True)
    how = f"-std=c++20 -O0 -shared -fPIC -I{torch}/include -L{torch}/lib -lc10 -ltorch_cpu".split()
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder, library.name)
        done = subprocess.run(
            [compiler, str(SOURCE), *how, "-o", str(made)], capture_output=True, text=True
        )
        if done.returncode:
            raise OSError(f"{compiler} cannot compile {SOURCE.name}:\n{done.stderr[-2000:]}")
        made.replace(library)


load()

import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from watch import Watch  # noqa: E402

aten = torch.ops.aten


class H100:
    """What torch tells of the device."""

    name, major, minor, multi_processor_count = "H100 (fake)", 9, 0, 132
    total_memory, warp_size, max_threads_per_multi_processor = 80 << 30, 32, 2048
    regs_per_multiprocessor, shared_memory_per_block_optin = 65536, 232448


def silu_backward(grad, x):
    return torch.empty_like(x)


def attention(q, k, v, *_, **__):
    """scaled_dot_product_attention by the kernel that CUDA would take, or by its formula."""
    backends = torch.backends.cuda
    half, width = q.dtype in (torch.float16, torch.bfloat16), q.shape[-1]
    if half and width <= 256 and backends.flash_sdp_enabled():
        if rest := -width % 8:
            q, k, v = (torch.nn.functional.pad(x, (0, rest)) for x in (q, k, v))
        out = aten._scaled_dot_product_flash_attention(q, k, v)[0]
        return out[..., :width] if rest else out
    if backends.mem_efficient_sdp_enabled():
        graph = torch.is_grad_enabled() and q.requires_grad
        return aten._scaled_dot_product_efficient_attention(q, k, v, None, graph)[0]
    return aten._scaled_dot_product_attention_math(q, k, v)[0]


def library():
    """The operators that a CPU build has no CUDA kernels of, and would take apart."""
    made = torch.library.Library("aten", "IMPL")
    made.impl("silu_backward", silu_backward, "CUDA")
    for key in ("CUDA", "AutogradCUDA"):
        made.impl("scaled_dot_product_attention", attention, key)
    return made


@contextlib.contextmanager
def device():
    """Yield a Watch of the device; torch.cuda says inside of the block that there is one."""
    answers = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "get_device_name": lambda *_: H100.name,
        "get_device_properties": lambda *_: H100,
        "get_device_capability": lambda *_: (H100.major, H100.minor),
        "is_bf16_supported": lambda *_, **__: True,
        "manual_seed_all": lambda *_: None,
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: torch.empty(0, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
    }
    with contextlib.ExitStack() as held:
        for name, answer in answers.items():
            held.enter_context(mock.patch.object(torch.cuda, name, answer))
        # a fake tensor's first operator would begin to use CUDA
        held.enter_context(mock.patch.object(FakeTensorMode, "avoid_device_init", True))
        held.callback(library()._destroy)
        # torch.tensor(..., device="cuda") is made on the host first, and copied where it is seen
        held.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        watch = Watch(FakeTensorMode(allow_non_fake_inputs=True))
        with watch:
            yield watch
