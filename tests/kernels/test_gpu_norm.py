"""Which norms on CUDA are Triton's, what torch's tools see of them, and what stands in for them.

Images on CUDA are fake here: they have shapes, types and layouts, and no numbers.
"""

import sys

import interpreted
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from flatdiff import kernels
from flatdiff.kernels import calls, gpu_norm, norm
from flatdiff.nets import layers as nn

LAYOUT = torch.channels_last


class Operators(TorchDispatchMode):
    """The names of all operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **kwargs or {})


@pytest.fixture
def on_cuda():
    """A context in which tensors on CUDA are fake; autograd would look for the device."""
    gpu_norm.runs.cache_clear()
    with FakeTensorMode(), torch.no_grad():
        yield
    gpu_norm.runs.cache_clear()


def image(*shape, dtype=torch.bfloat16, layout=LAYOUT, device="cuda"):
    return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)


def taken(x, film=None, weight=torch.float32):
    return norm.takes(x, torch.empty(64, dtype=weight, device="cuda"), film)


def operators(x, film=None, silu=False):
    """(result, names of the operators) of a norm."""
    norm = nn.GroupNorm32(32, 64, device="cuda")
    with Operators() as seen:
        return norm(x, film, silu), seen.names


@pytest.mark.parametrize("dtype", gpu_norm.DTYPES)
def test_a_norm_is_one_operator_and_keeps_layout_and_type(on_cuda, dtype):
    film = torch.empty(2, 128, dtype=dtype, device="cuda")
    y, names = operators(image(2, 64, 8, 8, dtype=dtype), film, silu=True)
    assert [n for n in names if not n.startswith(("prim::", "aten::empty"))] == ["flatdiff::norm"]
    assert y.dtype == dtype and y.is_contiguous(memory_format=LAYOUT)


def test_which_norms_are_taken(on_cuda):
    x, film = image(2, 64, 8, 8), torch.empty(2, 128, device="cuda")
    assert taken(x) and taken(x.float()) and taken(x.half()) and taken(x, film.bfloat16())
    assert taken(x.float(), film.half()) and taken(x.float(), film)
    assert not taken(x, film), "PyTorch's result would be fp32"
    assert not taken(x.half(), film.bfloat16()) and not taken(x, weight=torch.bfloat16)
    assert not taken(x.double(), weight=torch.double) and not taken(image(0, 64, 8, 8))
    assert not taken(image(2, 64, 8, 8, layout=torch.contiguous_format))
    assert not taken(torch.empty(2, 64, 8, device="cuda"))


def test_what_looks_inside_gets_pytorchs(on_cuda, monkeypatch):
    x = image(2, 64, 8, 8)
    assert taken(x)
    with calls.twice_differentiable():
        assert not taken(x)
    with forward_ad.dual_level():
        assert not taken(x)
    seen = []
    torch.func.vmap(lambda zero: seen.append(taken(x)) or zero)(torch.zeros(1))
    assert seen == [False]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not taken(x)


def test_without_triton_pytorch_computes_and_says_so_once(on_cuda, monkeypatch):
    monkeypatch.delattr(kernels, "norm_kernel", raising=False)
    monkeypatch.delitem(sys.modules, "flatdiff.kernels.norm_kernel", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.warns(UserWarning, match="PyTorch's, which are slower .*triton"):
        assert not taken(image(2, 64, 8, 8))
    _, names = operators(image(2, 64, 8, 8))
    assert "aten::native_group_norm" in names and "flatdiff::norm" not in names


def test_kernels_switched_off(on_cuda, monkeypatch):
    monkeypatch.setenv("FLATDIFF_KERNELS", "0")
    with pytest.warns(UserWarning, match="FLATDIFF_KERNELS=0"):
        assert not taken(image(2, 64, 8, 8))


@pytest.mark.parametrize("agrees", [lambda device: False, lambda device: 1 / 0])
def test_what_does_not_agree_or_run_is_not_used(monkeypatch, agrees):
    with pytest.warns(UserWarning, match="does not compute|division by zero"):
        assert not gpu_norm.runs(agrees)
    assert gpu_norm.runs(lambda device: device == "cuda")


def layer(film=True):
    generator = torch.Generator().manual_seed(0)
    x, dy = torch.randn(2, 2, 64, 3, 5, generator=generator)
    weight, bias = torch.randn(2, 64, generator=generator)
    film = torch.randn(2, 128, generator=generator).half() if film else None
    return *(t.to(memory_format=LAYOUT) for t in (x, dy)), weight, bias, film


@pytest.mark.parametrize("film", [False, True])
def test_shapes_without_numbers_are_those_with(film):
    x, dy, weight, bias, film = layer(film)
    y, moments = interpreted.call(gpu_norm.norm, x, weight, bias, film, 32, 1e-5, True)
    gradient = dy, x, moments, weight, bias, film, True
    real = [y, moments, *interpreted.call(gpu_norm.norm_backward, *gradient)]
    with FakeTensorMode() as mode:
        x, weight, bias = map(mode.from_tensor, (x, weight, bias))
        dy, moments = mode.from_tensor(dy), mode.from_tensor(moments)
        film = None if film is None else mode.from_tensor(film)
        fake = [*torch.ops.flatdiff.norm(x, weight, bias, film, 32, 1e-5, True)]
        fake += torch.ops.flatdiff.norm_backward(dy, x, moments, weight, bias, film, True)
    for a, b in zip(fake, real, strict=True):
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


def second_derivative():
    x, _, weight, bias, film = layer()
    x.requires_grad_()
    y = gpu_norm.normalize(x, weight, bias, film, groups=32, eps=1e-5, silu=True)
    return torch.autograd.grad(y.sum(), x, create_graph=True)


def test_a_second_derivative_is_an_error():
    with FakeTensorMode(), pytest.raises(RuntimeError, match="first.*only.*twice_differentiable"):
        second_derivative()


def test_dropout_follows_where_the_kernel_has_none(on_cuda):
    """What is asked for with a norm is done, in one pass or in two."""
    norm = nn.GroupNorm32(32, 64, device="cuda")
    for dropout in (0.0, 0.3):
        with Operators() as seen:
            norm(image(2, 64, 4, 4), silu=True, dropout=dropout)
        assert any("dropout" in n or "bernoulli" in n for n in seen.names) == (dropout > 0)
