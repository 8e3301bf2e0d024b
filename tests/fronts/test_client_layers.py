"""Layers that somebody looks into or replaces, as code written for guided-diffusion does."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from flatdiff.nets.blocks import QKVAttention, QKVAttentionLegacy, ResBlock
from flatdiff.nets.layers import GroupNorm32
from flatdiff.nets.unet import UNetModel


def network(**changes):
    torch.manual_seed(0)
    settings = dict(
        image_size=8, in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1,
        attention_resolutions=(2,), channel_mult=(1, 2), num_heads=2,
    )  # fmt: skip
    model = UNetModel(**settings | changes)
    for p in model.parameters():
        p.data.normal_(std=0.1)
    return model.to(memory_format=torch.channels_last)


def run_network(model):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 8, 8, generator=draw).to(memory_format=torch.channels_last)
    return model(x, torch.tensor([3, 70]))


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("updown", [False, True])
def test_hooks_of_all_layers_fire_and_see_what_the_layer_does(film, updown):
    model = network(use_scale_shift_norm=film, resblock_updown=updown)
    expected, fired = run_network(model), set()

    def hook(name):
        def note(module, inputs, output):
            fired.add(name)
            if type(module) in (GroupNorm32, nn.SiLU):
                plain = nn.GroupNorm.forward if type(module) is GroupNorm32 else nn.SiLU.forward
                torch.testing.assert_close(output, plain(module, *inputs), rtol=1e-4, atol=1e-5)

        return note

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name))
    torch.testing.assert_close(run_network(model), expected, rtol=1e-4, atol=1e-4)
    lists = {n for n, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    # FiLM stands inside out_layers, and a change of size inside in_layers: no one call does all.
    inside = {"out_layers"} if film else set()
    blocks = {n: m for n, m in model.named_modules() if isinstance(m, ResBlock)}
    apart = {f"{n}.{layers}" for n in blocks for layers in inside}
    apart |= {f"{n}.in_layers" for n, m in blocks.items() if m.updown}
    idle = {f"{n}.{u}" for n, m in blocks.items() if not m.updown for u in ("h_upd", "x_upd")}
    assert {n for n, _ in model.named_modules()} - fired == lists | apart | idle


@pytest.mark.parametrize("kind", ["pre", "forward", "backward", "full", "global", "patch"])
def test_a_fused_layer_steps_aside_for_every_kind_of_hook(kind):
    model, calls = network(), []
    layer = model.out[1]

    def note(module, *rest):
        if module is layer:
            calls.append(kind)

    if kind == "patch":
        layer.forward = lambda x: (calls.append(kind), nn.functional.silu(x))[1]
    hooks = {
        "pre": layer.register_forward_pre_hook,
        "forward": layer.register_forward_hook,
        "backward": layer.register_full_backward_pre_hook,
        "full": layer.register_full_backward_hook,
        "global": nn.modules.module.register_module_forward_hook,
        "patch": lambda hook: None,
    }
    handle = hooks[kind](note)
    try:
        run_network(model).sum().backward()
    finally:
        if handle:
            handle.remove()
    assert calls == [kind]


def changed(change):
    """How far the output moves when a layer is replaced; the layer's class must not matter."""
    model = network()
    before = run_network(model)
    change(model)
    return (run_network(model) - before).abs().max().item()


class Plus(nn.Module):
    """An adapter around a layer, as low-rank fine-tuning puts there."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return self.base(x) + 1.0


def wrap(module, name):
    setattr(module, name, Plus(getattr(module, name)))


REPLACED = {
    "silu": lambda m: m.out.__setitem__(1, nn.ReLU()),
    "inner silu": lambda m: m.middle_block[0].in_layers.__setitem__(1, nn.ReLU()),
    "second silu": lambda m: m.middle_block[0].out_layers.__setitem__(1, nn.ReLU()),
    "norm": lambda m: m.middle_block[0].in_layers.__setitem__(0, nn.Identity()),
    "attention's norm": lambda m: setattr(m.middle_block[1], "norm", nn.Identity()),
    "attention": lambda m: wrap(m.middle_block[1], "attention"),
    "qkv": lambda m: wrap(m.middle_block[1], "qkv"),
    "first convolution": lambda m: m.input_blocks[0].__setitem__(0, Plus(m.input_blocks[0][0])),
    "time embedding": lambda m: m.time_embed.__setitem__(0, Plus(m.time_embed[0])),
    "parametrization": lambda m: parametrizations.spectral_norm(m.out[2]),
    "norm's parametrization": lambda m: nn.utils.parametrize.register_parametrization(
        m.out[0], "weight", Plus(nn.Identity())
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_layer_acts(name):
    assert changed(REPLACED[name]) > 1e-3


def test_a_convolution_may_take_the_place_of_qkv():
    """guided-diffusion's layout there is [N, C, T]; T = C would hide another one."""
    model = network(image_size=16)
    old = model.middle_block[1].qkv
    new = nn.Conv1d(64, 192, 1)
    new.load_state_dict(old.state_dict())
    x = torch.randn(2, 64, 8, 8)
    expected = model.middle_block[1](x)
    model.middle_block[1].qkv = new
    torch.testing.assert_close(model.middle_block[1](x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [QKVAttention, QKVAttentionLegacy])
def test_attention_of_channels_first(order):
    torch.manual_seed(0)
    n, heads, ch, length = 2, 3, 4, 5
    q, k, v = torch.randn(3, n, heads, ch, length, dtype=torch.float64)
    joined = torch.stack((q, k, v), dim=1 if order is QKVAttention else 2).reshape(n, -1, length)
    weights = torch.einsum("nhct,nhcs->nhts", q, k).div(ch**0.5).softmax(dim=3)
    expected = torch.einsum("nhts,nhcs->nhct", weights, v).reshape(n, heads * ch, length)
    torch.testing.assert_close(order(heads)(joined), expected)


def test_attributes_of_a_network():
    model = network(use_checkpoint=True, dropout=0.1, num_classes=7)
    expected = dict(
        image_size=8, in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1,
        attention_resolutions=(2,), dropout=0.1, channel_mult=(1, 2), conv_resample=True,
        num_classes=7, use_checkpoint=True, dtype=torch.float32, num_heads=2,
        num_head_channels=-1, num_heads_upsample=2,
    )  # fmt: skip
    assert {name: getattr(model, name) for name in expected} == expected
