"""Triton's noise: interpreted, the reference to the bit; compiled, without a GPU, as it must be."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import interpreted
import pytest
import torch
from launch import run, succeed

from flatdiff.kernels import calls, noise

needs_triton = pytest.mark.skipif(
    not importlib.util.find_spec("triton"), reason="there is no Triton"
)
SHAPES = [(), (1001,), (16, 32), (8, 4, 3, 3), (33, 5, 1, 1), (3, 170, 3, 3)]
KEYS = [(0x8123_4567_89AB_CDEF, 1), (0, 0), (2**64 - 1, 2**31), (1 << 32, 16)]
INTERPRETED = f"""
import torch
from flatdiff.kernels import calls, gpu_noise, noise

for shape in {SHAPES}:
    for key, stream in {KEYS}:
        plain = torch.randn(shape)
        last = [plain.to(memory_format=torch.channels_last)] if plain.ndim == 4 else []
        for w in [plain, *last]:
            expected = noise.add_(w.clone(), -0.37, key, stream)
            assert torch.equal(gpu_noise.add_noise(w.clone(), -0.37, key, stream), expected), shape
"""


@needs_triton
def test_interpreted_it_is_the_reference_to_the_bit():
    paths = os.pathsep.join(sys.path)
    succeed(run([sys.executable, "-c", INTERPRETED], TRITON_INTERPRET="1", PYTHONPATH=paths))


@needs_triton
@pytest.mark.skipif(interpreted.OLD, reason="Triton before 3.5 compiles by other calls")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("last", [False, True])
def test_compiled_it_keeps_the_bits_and_spills_nothing(capability, last, tmp_path):
    """Nothing but single operations, rounded to nearest: PTX contracts none that says `.rn`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from flatdiff.kernels import gpu_noise

    constants = {"LAST": last, "BLOCK": gpu_noise.BLOCK}
    kinds = {"w": "*fp32", "scale": "fp32"} | dict.fromkeys(constants, "constexpr")
    kernel = gpu_noise.add_noise_kernel
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=gpu_noise.OPTIONS).asm
    operations = set(re.findall(r"\b(\w+\.\S*f32)\b", compiled["ptx"]))
    single = {f"{name}.rn.f32" for name in ("add", "sub", "mul", "sqrt")}
    assert operations == single | {"cvt.rn.f32", "neg.f32", "selp.f32"}
    cubin = tmp_path / "noise.cubin"
    cubin.write_bytes(compiled["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    said = succeed(run([tool, "-res-usage", cubin])).stdout
    assert "STACK:0" in said and "LOCAL:0" in said


@pytest.mark.parametrize("missing", [False, True])
def test_cpu_tensors_are_not_for_it_and_without_triton_there_is_torch(missing, monkeypatch):
    if missing:
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, "flatdiff.kernels.gpu_noise", raising=False)
        monkeypatch.delattr("flatdiff.kernels.gpu_noise", raising=False)
    noise._gpu.cache_clear()
    try:
        with calls.switched_off():
            z = noise.add_(torch.zeros(8), 1.0, 5, 0)
        assert noise._gpu() is None or not missing
        assert torch.equal(z, noise.normals(torch.arange(2), 5, 0))
    finally:
        noise._gpu.cache_clear()


@needs_triton
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("shape", SHAPES)
def test_on_cuda_the_numbers_are_the_cpus(shape):
    for key, stream in KEYS:
        w = torch.randn(shape)
        layouts = [torch.contiguous_format] + [torch.channels_last] * (w.ndim == 4)
        for layout in layouts:
            expected = noise.add_(w.clone(memory_format=layout), 0.37, key, stream)
            got = noise.add_(w.to("cuda", memory_format=layout), 0.37, key, stream)
            assert torch.equal(got.cpu(), expected)
