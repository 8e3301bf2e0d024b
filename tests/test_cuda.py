"""On CUDA the network and its training step are what they are on the CPU (fp32, and bf16)."""

import copy

import pytest
import small
import torch
import training

from flatdiff.chain.resample import Draw
from flatdiff.models import networks
from flatdiff.train.train_util import TrainLoop
from flatdiff.world import dist_util

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DEVICE = "cuda"
LIMITS = [("fp32", 1e-4), ("bf16", 2e-2)]


@pytest.fixture(autouse=True)
def exact(quiet):
    """No tf32 in convolutions (in products it is off by default), and no files of a run."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def made():
    """(network with random weights everywhere, on the CPU; chain)."""
    sizes = dict(image_size=16, num_channels=64, channel_mult="1,2", attention_resolutions="8")
    return small.network(3, **sizes, diffusion_steps=1000)


def on(device, model):
    return copy.deepcopy(model).to(device, memory_format=torch.channels_last)


def deviation(value, reference):
    value, reference = value.detach().double().cpu(), reference.detach().double().cpu()
    return ((value - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
def test_forward(made, dtype, limit):
    x, t = torch.randn(4, 3, 16, 16), torch.tensor([1, 250, 600, 999])
    with torch.no_grad():
        expected = on("cpu", made[0])(x, t)
        with networks.casting(dtype, DEVICE)():
            output = on(DEVICE, made[0])(x.to(DEVICE), t.to(DEVICE))
    assert deviation(output, expected) < limit


def step(device, made, dtype, optimizer):
    """(losses, gradient, weights) of one training step on fixed draws."""
    batch = {"batch_size": 4, "microbatch": -1, "log_interval": 100, "save_interval": 100}
    loop = TrainLoop(
        model=on(device, made[0]),
        diffusion=made[1],
        data=None,
        lr=1e-4,
        ema_rate="0.9999",
        resume_checkpoint="",
        optimizer=optimizer,
        dtype=dtype,
        **batch,
    )
    g = torch.Generator().manual_seed(5)
    x_start, noise = torch.randn(2, 4, 3, 16, 16, generator=g)
    t = torch.tensor([1, 250, 600, 999])
    draw = Draw(*(v.to(device) for v in (x_start.clamp(-1, 1), t, noise, torch.ones(4))), {})
    _, terms = loop.gradient(draw)
    gradient = torch.cat([w.grad.flatten() for w in loop.weights])
    loop.optimize()
    return terms["loss"], gradient, torch.cat([w.flatten() for w in loop.weights])


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize("optimizer", ["adam", "adam-sam"])
def test_training_step(made, dtype, limit, optimizer):
    assert dist_util.dev().type == DEVICE
    expected = step("cpu", made, "fp32", optimizer)
    losses, gradient, weights = step(DEVICE, made, dtype, optimizer)
    assert deviation(losses, expected[0]) < limit
    norms = [g.double().norm() for g in (gradient, expected[1])]  # in fp32, 1e-4 off on a CPU
    assert deviation(*norms) < limit
    assert deviation(gradient, expected[1]) < 2 * limit  # it is rounded on both ways
    assert deviation(weights, expected[2]) < limit


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize("optimizer", ["adam", "adam-sam", "adam-fsam"])
def test_steps_by_graphs(optimizer, dtype, limit):
    """Four steps with dropout by a recorded graph, and without one."""
    ends = []
    for cuda_graphs in (False, True):
        flags = {"optimizer": optimizer, "dtype": dtype, "dropout": 0.2, "sam_share": 0.5}
        loop = training.train(4, **flags, cuda_graphs=cuda_graphs)
        losses = torch.cat([h["loss"] for h in loop.history])
        ends.append((losses, torch.cat([w.flatten() for w in loop.weights])))
    for value, expected in zip(ends[1], ends[0], strict=True):
        assert deviation(value, expected) < limit
