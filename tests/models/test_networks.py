"""Networks of flags and of checkpoints: what is compiled, cast and read from a file's header."""

import dataclasses

import pytest
import torch
from small import groups, network, save_run

from flatdiff.flags import config
from flatdiff.models import networks
from flatdiff.nets.unet import UNetModel
from flatdiff.store import private

GROUPS = {"model": config.ModelFlags, "diffusion": config.DiffusionFlags, "run": config.RunFlags}


def test_compiling_is_told_once(capsys, monkeypatch):
    """And in no public folder is kept what is run and unpickled."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    class Net(torch.nn.Linear):
        def compile(self, **how):
            super().compile(backend="eager", **how)

    net, x = Net(2, 2), torch.ones(1, 2)
    expected = net(x)
    networks.compile_network(net)
    assert all(torch.equal(net(x), expected) for _ in range(2))
    told = capsys.readouterr().out
    assert told.count("compiled in") == 1
    assert f"the next run uses {private.places('compiled')[0]}\n" in told


class Images(torch.nn.Module):
    """Images, timesteps and labels -> images, by two small layers."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 6)
        self.layers = torch.nn.ModuleList([torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(6, 3, 3)])

    def forward(self, x, t, y=None):
        h = self.layers[0](x) + t.view(-1, 1, 1, 1)
        return self.layers[1](h if y is None else h + self.embed(y)[:, :, None, None]).sin()


@pytest.fixture
def shapes(monkeypatch):
    """How many images each graph was compiled for."""
    found, plain = [], torch.nn.Module.compile

    def backend(graph, inputs):
        found.append(next(len(x) for x in inputs if x.shape[1:] == (3, 8, 8)))
        return graph.forward

    def compile(net, **how):
        plain(net, backend=backend, **how)

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


def test_a_compiled_network_sees_batches_of_one_size(shapes):
    net = Images().to(memory_format=torch.channels_last).eval()
    batches = []
    for n in (4, 3, 1, 4, 2):
        x = torch.randn(n, 3, 8, 8).to(memory_format=torch.channels_last)
        batches.append((x, torch.arange(n), torch.arange(n) % 5))
    with torch.no_grad():
        expected = [net(x, t, y=y) for x, t, y in batches]
        networks.compile_network(net)
        for (x, t, y), output in zip(batches, expected):
            torch.testing.assert_close(net(x, t, y=y), output, rtol=1e-5, atol=1e-6)
    assert shapes == [4]


def test_a_gradient_of_a_filled_batch_is_that_of_its_images(shapes):
    """As guidance by a compiled classifier takes it."""
    net = Images().eval().requires_grad_(False)
    x, t = torch.randn(3, 3, 8, 8, requires_grad=True), torch.arange(3)
    (expected,) = torch.autograd.grad(net(x, t).square().sum(), x)
    networks.compile_network(net)
    net(torch.randn(4, 3, 8, 8, requires_grad=True), torch.arange(4))
    (found,) = torch.autograd.grad(net(x, t).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert shapes == [4]


def test_batches_of_a_training_are_not_filled(shapes):
    net = Images()
    networks.compile_network(net)
    for n in (4, 2):
        net(torch.randn(n, 3, 8, 8), torch.arange(n))
    assert shapes == [4, 2]


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match="dtype is 'auto'; expected fp32, bf16, fp16"):
        networks.casting("auto", "cpu")


def test_super_resolution_is_a_u_nets():
    groups = config.ModelFlags(network="vit"), config.SuperResFlags(), config.DiffusionFlags()
    with pytest.raises(ValueError, match="--network vit: super-resolution has a U-Net alone"):
        networks.build_super_res(*groups)


def test_a_config_of_before_networks_had_names_is_a_u_nets(tmp_path):
    model, _ = network()
    flags = [dataclasses.asdict(group) for group in groups()]
    for name in ("network", "patch_size", "num_layers"):
        del flags[0][name]
    path = save_run(tmp_path, model, model=flags[0], diffusion=flags[1])
    given = config.parse("", [], **GROUPS)
    found, _ = networks.from_checkpoint(str(path), given)
    assert type(found) is UNetModel
    given = config.parse("", ["--network", "vit", "--num_channels", "32"], **GROUPS)
    with pytest.raises(ValueError, match="--network 'vit' contradicts.*--network 'unet'"):
        networks.from_checkpoint(str(path), given)
