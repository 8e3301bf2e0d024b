"""Masters of a half-precision network, against plain fp32 training and by hand."""

import copy

import pytest
import torch
from torch import nn

from flatdiff import fp16_util
from flatdiff.fp16_util import MixedPrecisionTrainer
from flatdiff.world import logger

pytestmark = pytest.mark.usefixtures("quiet")


class Net(nn.Module):
    """Two convolutions, of which one is turned to half, and a norm between."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3)
        self.last = nn.Conv2d(3, 1, 1)

    def convert_to_fp16(self):
        self.first.apply(fp16_util.convert_module_to_f16)

    def forward(self, x):
        h = self.first(x.to(self.first.weight.dtype))
        return self.last(self.norm(h.float()))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def loss_of(net):
    return net(torch.linspace(-1, 1, 50).view(1, 2, 5, 5)).square().mean()


def test_only_convolutions_are_converted():
    module = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Conv3d(2, 2, 1, bias=False), nn.Linear(2, 2))
    module.append(nn.GroupNorm(1, 2))
    half, single = torch.float16, torch.float32
    for convert, dtype in (
        (fp16_util.convert_module_to_f16, half),
        (fp16_util.convert_module_to_f32, single),
    ):
        module.apply(convert)
        assert [m.weight.dtype for m in module] == [dtype, dtype, single, single]
        assert module[0].bias.dtype == dtype


def test_masters_are_all_vectors_and_all_else(net):
    groups = fp16_util.get_param_groups_and_shapes(net.named_parameters())
    masters = fp16_util.make_master_params(groups)
    flat = [[p.flatten() for p in net.parameters() if (p.ndim <= 1) == v] for v in (True, False)]
    assert torch.equal(masters[0], torch.cat(flat[0]))
    assert torch.equal(masters[1], torch.cat(flat[1])[None])
    for master in masters:
        master.data += 1
    before = [p.clone() for p in net.parameters()]
    fp16_util.master_params_to_model_params(groups, masters)
    assert all(torch.equal(p, old + 1) for p, old in zip(net.parameters(), before))


@pytest.mark.parametrize("use_fp16", [False, True])
def test_a_saved_network_is_its_masters_and_back(net, use_fp16):
    trainer = MixedPrecisionTrainer(model=net, use_fp16=use_fp16)
    for master in trainer.master_params:
        master.data += 1e-5  # less than half precision has
    saved = trainer.master_params_to_state_dict(trainer.master_params)
    assert list(saved) == list(Net().state_dict())
    assert all(value.dtype == torch.float32 for value in saved.values())
    Net().load_state_dict(saved)
    back = trainer.state_dict_to_master_params(saved)
    assert all(torch.equal(a, b) for a, b in zip(back, trainer.master_params, strict=True))


def test_steps_are_those_of_fp32_up_to_rounding(net):
    plain = copy.deepcopy(net)
    opt = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    half = MixedPrecisionTrainer(model=net, use_fp16=True, initial_lg_loss_scale=10.0)
    half_opt = torch.optim.AdamW(half.master_params, lr=1e-2)
    single = MixedPrecisionTrainer(model=plain)
    for _ in range(5):
        for trainer, network, optimizer in ((half, net, half_opt), (single, plain, opt)):
            trainer.zero_grad()
            trainer.backward(loss_of(network))
            assert trainer.optimize(optimizer)
    saved = half.master_params_to_state_dict(half.master_params)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=0.02, atol=2e-3)
        torch.testing.assert_close(
            net.state_dict()[name].float(), saved[name], rtol=1e-3, atol=1e-4
        )
    assert half.lg_loss_scale == pytest.approx(10.005)


def test_norms_are_of_the_unscaled_gradient(net):
    grads = torch.autograd.grad(loss_of(net), list(net.parameters()))
    expected = torch.cat([g.flatten() for g in grads]).norm().item()
    size = torch.cat([p.flatten() for p in net.parameters()]).norm().item()
    trainer = MixedPrecisionTrainer(model=net, use_fp16=True, initial_lg_loss_scale=12.0)
    trainer.backward(loss_of(net))
    trainer.optimize(torch.optim.SGD(trainer.master_params, lr=0.0))
    row = logger.dumpkvs()
    assert row["grad_norm"] == pytest.approx(expected, rel=0.01)
    assert row["param_norm"] == pytest.approx(size, rel=1e-5) and row["lg_loss_scale"] == 12


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_an_overflow_takes_no_step_and_halves_the_scale(net, bad):
    trainer = MixedPrecisionTrainer(model=net, use_fp16=True, initial_lg_loss_scale=8.0)
    before = [p.clone() for p in trainer.master_params]
    opt = torch.optim.SGD(trainer.master_params, lr=1.0)
    trainer.backward(loss_of(net) * bad)
    assert trainer.optimize(opt) is False and trainer.lg_loss_scale == 7
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.master_params))
    assert all(p.grad is None for p in trainer.master_params)
    trainer.zero_grad()
    assert all(not p.grad.any() for p in net.parameters())


def test_parameters_without_a_gradient_count_as_zero(net):
    groups = fp16_util.get_param_groups_and_shapes(net.named_parameters())
    masters = fp16_util.make_master_params(groups)
    net.norm.weight.grad = torch.full((3,), 2.0)
    fp16_util.model_grads_to_master_grads(groups, masters)
    assert masters[0].grad.sum() == 6 and not masters[1].grad.any()
    fp16_util.zero_master_grads(masters)
    assert masters[0].grad is None
