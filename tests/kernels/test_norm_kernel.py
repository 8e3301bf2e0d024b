"""Triton's norm against its formula in fp64: on CUDA, else by Triton's interpreter. And compiled
for GPUs that are not here."""

import functools
import re
import subprocess
from pathlib import Path

import interpreted
import pytest
import torch
import torch.nn.functional as F
import triton
from interpreted import value_and_gradients
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flatdiff.kernels import gpu_norm, norm_kernel

CLOSE = 1e-6  # of the largest number; fp32 has 1.2e-7 between neighbours
# Half of what lies between neighbours, as a share; the interpreter cuts bf16 off, where GPUs round.
ROUNDED = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-7}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def image(*shape, dtype=torch.float32, mean=0.0):
    return (torch.randn(shape) + mean).to(dtype).to(memory_format=torch.channels_last)


def layer(x, film=False):
    n, channels = x.shape[:2]
    inputs = {"x": x, "weight": torch.randn(channels), "bias": torch.randn(channels)}
    return inputs | {"film": torch.randn(n, 2 * channels).to(x.dtype)} if film else inputs


def ours(dy, silu=False, groups=32, **inputs):
    """The norm, and its gradients."""
    norm = functools.partial(gpu_norm.normalize, groups=groups, eps=1e-5, silu=silu)
    if not torch.cuda.is_available():
        return interpreted.call(value_and_gradients, norm, dy, **inputs)
    on_gpu = {name: value.cuda() for name, value in inputs.items()}
    return [t.cpu() for t in value_and_gradients(norm, dy.cuda(), **on_gpu)]


def exact(dy, silu=False, groups=32, **inputs):
    def formula(x, weight, bias, film=None):
        h = F.group_norm(x, groups, weight, bias)
        if film is not None:
            scale, shift = film[..., None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return F.silu(h) if silu else h

    inputs = {name: value.double() for name, value in inputs.items()}
    return value_and_gradients(formula, dy.double(), **inputs)


def assert_exact(dy, close=CLOSE, **inputs):
    """All results are those of fp64, rounded once to their types, and images in channels_last."""
    given = inputs["x"], inputs["x"], inputs["weight"], inputs["bias"], inputs.get("film")
    for got, truth, like in zip(ours(dy, **inputs), exact(dy, **inputs), given):
        assert got.dtype == like.dtype and got.stride() == like.stride()
        error = (got - truth).abs() - ROUNDED[got.dtype] * truth.abs()
        assert error.max() <= close * truth.abs().max()


SHAPES = [(2, 32, 8, 8), (3, 96, 5, 7), (1, 160, 3, 3), (2, 192, 1, 1), (1, 384, 4, 9)]
SHAPES += [(1, 1024, 2, 2), (2, 64, 20, 30)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("silu", [False, True])
def test_the_norm_is_its_formula(shape, film, silu):
    assert_exact(image(*shape), silu=silu, **layer(image(*shape, mean=2), film))


def test_an_image_of_many_parts():
    shape = 1, 32, 47, 128
    assert_exact(image(*shape), silu=True, **layer(image(*shape), film=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 96, 5, 7), (1, 256, 6, 6)], ids=str)
def test_half_precision_is_rounded_once(dtype, shape):
    x, dy = image(*shape, dtype=dtype, mean=2), image(*shape, dtype=dtype)
    assert_exact(dy, silu=True, **layer(x, film=True))
    assert_exact(dy, **layer(x))


@pytest.mark.parametrize(("channels", "groups"), [(24, 3), (300, 1), (40, 20)])
def test_any_number_of_groups(channels, groups):
    shape = 2, channels, 17, 16
    assert_exact(image(*shape), groups=groups, silu=True, **layer(image(*shape), film=True))


def test_a_film_of_half_precision():
    inputs = layer(image(2, 64, 4, 4), film=True)
    inputs["film"] = inputs["film"].half()
    assert_exact(image(2, 64, 4, 4), **inputs)


def test_a_large_mean_costs_no_digits():
    # x is given to 1.2e-4 of its deviation, and so is the mean; 32 channels: parts are many tiles
    for shape in [(2, 64, 16, 16), (1, 32, 80, 64)]:
        inputs = layer(image(*shape, mean=3000)) | {"weight": torch.ones(shape[1])}
        assert_exact(image(*shape), close=2e-4, **inputs | {"bias": torch.zeros(shape[1])})


def test_a_slope_costs_no_digits():
    ramp = torch.linspace(0, 1, 64 * 64).view(1, 1, 64, 64).expand(1, 32, 64, 64)
    x = (1000 * ramp).contiguous(memory_format=torch.channels_last)
    assert_exact(image(*x.shape), **layer(x))


def test_silu_far_from_zero():
    x = torch.linspace(-2, 2, 32).view(1, 1, 32, 1).expand(1, 64, 32, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    inputs = layer(x) | {"weight": torch.full((64,), 100.0), "bias": torch.zeros(64)}
    assert_exact(torch.ones_like(x), silu=True, **inputs)


def test_what_is_not_finite_stays_so():
    x = image(2, 64, 4, 4)
    x[0, 3, 1, 1] = torch.nan
    y, dx, *_ = ours(torch.ones_like(x), silu=True, **layer(x))
    for t in (y, dx):
        assert t[0, 2:4].isnan().all() and t[0, 4:].isfinite().all() and t[1].isfinite().all()


def test_an_image_has_the_same_bits_every_time_and_beside_any_others():
    x, dy = image(3, 96, 20, 20), image(3, 96, 20, 20)
    inputs = layer(x, film=True)
    first, again = (ours(dy, silu=True, **inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    one = inputs | {"x": x[1:2], "film": inputs["film"][1:2]}
    y, dx, _, _, dfilm = ours(dy[1:2], silu=True, **one)
    for got, among in ((y, first[0]), (dx, first[1]), (dfilm, first[4])):
        assert torch.equal(got, among[1:2])


# Compiled


KERNELS = ["moments_kernel", "norm_kernel", "sums_kernel", "gradient_kernel"]
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


class Launch:
    """Stands for a kernel, and keeps what it is launched with."""

    def __init__(self, kernel):
        self.kernel, self.arguments = kernel, None

    def __getitem__(self, programs):
        return self

    def __call__(self, *arguments, **sizes):
        self.arguments = dict(zip(self.kernel.arg_names, arguments)) | sizes

    def compiled(self, capability):
        """What Triton makes of it for a GPU of this capability, pointers being aligned."""
        signature, constants, aligned = {}, {}, {}
        for i, parameter in enumerate(self.kernel.params):
            value = self.arguments[parameter.name]
            if parameter.is_constexpr or value is None:
                signature[parameter.name], constants[i,] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = TYPES[value.dtype]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, torch.Tensor) or signature[parameter.name] == "i32":
                aligned[i,] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, constants, aligned)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32))


def launches(monkeypatch, channels, size, dtype, film):
    """All of the norm of 16 images, and of its gradient."""
    found = [Launch(getattr(norm_kernel, name)) for name in KERNELS]
    for launch, name in zip(found, KERNELS):
        monkeypatch.setattr(norm_kernel, name, launch)
    x = torch.empty(16, channels, size, size, dtype=dtype, device="meta")
    x = x.to(memory_format=torch.channels_last)
    weight = torch.empty(channels, device="meta")
    film = x.new_empty(16, 2 * channels) if film else None
    y, moments = gpu_norm.norm(x, weight, weight, film, 32, 1e-5, True)
    gpu_norm.norm_backward(y, x, moments, weight, weight, film, True)
    return found


@pytest.mark.skipif(interpreted.OLD, reason="Triton before 3.5 compiles by other calls")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("channels", "size", "dtype", "film"),
    [
        (128, 256, torch.bfloat16, True),
        (192, 64, torch.bfloat16, False),
        (256, 32, torch.float32, True),
        (512, 16, torch.bfloat16, True),
        (768, 8, torch.float16, True),
        (1024, 256, torch.float32, True),
        (1024, 32, torch.bfloat16, False),
    ],
)
def test_it_compiles_to_what_keeps_all_in_registers_and_uses_no_atomics(
    monkeypatch, tmp_path, capability, channels, size, dtype, film
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for launch in launches(monkeypatch, channels, size, dtype, film):
        made = launch.compiled(capability)
        cubin = tmp_path / "kernel.cubin"
        cubin.write_bytes(made.asm["cubin"])
        command = [CUOBJDUMP, "-res-usage", cubin]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert re.search(r"REG:\d+ STACK:0 .*LOCAL:0", usage), usage
        assert not re.search(r"\b(atom|red)\.", made.asm["ptx"])
        if dtype == torch.bfloat16 and launch.kernel.__name__ in ("norm_kernel", "gradient_kernel"):
            assert "cvt.rn.bf16" in made.asm["ptx"]
