"""The vision transformer: its formulas by hand, patches, what a new one is, and derivatives."""

import functools

import pytest
import torch
import torch.nn.functional as F
from networks import batch
from torch import nn

from flatdiff.kernels.calls import twice_differentiable
from flatdiff.nets.vit import Block, ViT, positions, unpatched

SIZES = dict(patch_size=2, num_layers=2, num_heads=2)


def tiny(**kwargs):
    """A vision transformer of 8 x 8 pixels and 16 patches, with no layer left at zero."""
    torch.manual_seed(0)
    return filled(ViT(8, 3, 32, 3, **SIZES | kwargs))


def filled(network, std=0.1):
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=std)
    return network


def normed(x):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def by_hand(block, x, emb):
    """The block, token by token and head by head."""
    told = F.linear(emb, block.modulation.weight, block.modulation.bias)
    shift, scale, gate, shift2, scale2, gate2 = told.unflatten(1, (6, 1, -1)).unbind(1)
    h = normed(x) * (1 + scale) + shift
    qkv = h @ block.qkv.weight.T + block.qkv.bias
    channels = x.shape[2] // block.num_heads
    heads = []
    for i in range(block.num_heads):
        q, k, v = (part[..., i * channels : (i + 1) * channels] for part in qkv.chunk(3, dim=2))
        scores = torch.einsum("ntc,nsc->nts", q, k) / channels**0.5
        share = scores.exp() / scores.exp().sum(-1, keepdim=True)
        heads.append(torch.einsum("nts,nsc->ntc", share, v))
    x = x + gate * (torch.cat(heads, 2) @ block.proj_out.weight.T + block.proj_out.bias)
    h = normed(x) * (1 + scale2) + shift2
    first, last = block.mlp[0], block.mlp[3]
    h = h @ first.weight.T + first.bias
    h = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    return x + gate2 * (h @ last.weight.T + last.bias)


def test_a_block_is_its_formulas():
    torch.manual_seed(0)
    block = filled(Block(24, 3, dropout=0.0, use_checkpoint=False).double(), std=0.5)
    x, emb = torch.randn(2, 5, 24, dtype=torch.float64), torch.randn(2, 24, dtype=torch.float64)
    torch.testing.assert_close(block(x, emb), by_hand(block, x, emb), rtol=1e-12, atol=1e-12)


def test_the_network_is_its_formulas():
    """Of 4 x 4 pixels in four patches, pixel by pixel; timesteps may be fractional."""
    torch.manual_seed(0)
    model = filled(ViT(4, 3, 8, 2, **SIZES | dict(num_layers=1), num_classes=3).double(), std=0.2)
    x, t, y = torch.randn(1, 3, 4, 4, dtype=torch.float64), torch.tensor([7.25]), torch.tensor([2])
    angles = 7.25 * 10000 ** (-torch.arange(128, dtype=torch.float64) / 127)
    first, last = model.time_embed[0], model.time_embed[2]
    emb = F.linear(torch.cat([angles.cos(), angles.sin()]), first.weight, first.bias)
    emb = F.linear(emb * emb.sigmoid(), last.weight, last.bias) + model.label_emb.weight[2]
    emb = (emb * emb.sigmoid())[None]
    tokens = []
    for row in range(2):
        for column in range(2):
            patch = x[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            place = [f(w * at) for at in (column, row) for f in (torch.sin, torch.cos)
                     for w in torch.tensor([1, 0.01], dtype=torch.float64)]  # fmt: skip
            token = torch.einsum("cijk,ijk->c", model.patch_embed.weight, patch)
            tokens.append(token + model.patch_embed.bias + torch.stack(place))
    h = by_hand(model.blocks[0], torch.stack(tokens)[None], emb)
    shift, scale = F.linear(emb, model.out_modulation.weight, model.out_modulation.bias).chunk(2, 1)
    h = F.linear(normed(h) * (1 + scale) + shift, model.out.weight, model.out.bias)
    expected = torch.empty(1, 2, 4, 4, dtype=torch.float64)
    for row in range(4):
        for column in range(4):
            token = h[0, row // 2 * 2 + column // 2].view(2, 2, 2)  # row, column, channel
            expected[0, :, row, column] = token[row % 2, column % 2]
    torch.testing.assert_close(model(x, t, y), expected, rtol=1e-5, atol=1e-5)  # t is fp32's


def test_patches_come_back_where_they_were():
    x = torch.randn(2, 3, 8, 8)
    columns = F.unfold(x, 2, stride=2)  # [N, C * 2 * 2, T]
    tokens = columns.unflatten(1, (3, 4)).permute(0, 3, 2, 1).flatten(2)
    assert torch.equal(unpatched(tokens, 2), x)


def test_only_places_tell_patches_apart():
    """Without them, patches in another order give the same patches in that order."""
    model, (x, t) = tiny(), batch()
    order = torch.randperm(16)

    def shuffled(images):
        return F.fold(F.unfold(images, 2, stride=2)[:, :, order], 8, 2, stride=2)

    with torch.no_grad():
        assert (model(shuffled(x), t) - shuffled(model(x, t))).abs().max() > 0.1
        model.positions.zero_()
        torch.testing.assert_close(model(shuffled(x), t), shuffled(model(x, t)), atol=1e-5, rtol=0)
    assert len({tuple(place) for place in positions(32, 8).tolist()}) == 32**2


@pytest.mark.parametrize("classes", [dict(), dict(num_classes=5, null_label=True)])
def test_a_new_one_gives_zeros_and_has_as_many_weights_as_the_formula(classes):
    width, patch, out, layers = 32, 2, 6, 3
    model = ViT(8, 3, width, out, patch_size=patch, num_layers=layers, num_heads=4, **classes)
    x, t = batch()
    y = torch.tensor([0, 5]) if classes else None
    assert not model(x, t, y).any()
    tokens = torch.randn(2, 16, width)
    assert torch.equal(model.blocks[0](tokens, torch.randn(2, width)), tokens)
    block = 18 * width**2 + 15 * width
    ends = (3 * patch**2 + 1) * width + (256 + 1 + width + 1) * width
    ends += 2 * (width + 1) * width + (width + 1) * patch**2 * out + (6 * width if classes else 0)
    assert sum(p.numel() for p in model.parameters()) == layers * block + ends
    assert [name for name, _ in model.named_parameters()] == list(model.state_dict())


def test_channels_last_is_kept_and_changes_nothing():
    model, (x, t) = tiny(), batch()
    expected = model(x, t)
    assert expected.is_contiguous()
    model.to(memory_format=torch.channels_last)
    for images in (x, x.to(memory_format=torch.channels_last)):
        output = model(images, t)
        assert output.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_checkpointing_keeps_dropout_masks():
    x, t = batch()
    recomputed = []

    def gradients(use_checkpoint):
        model = tiny(use_checkpoint=use_checkpoint, dropout=0.5)
        model.blocks[1].qkv.register_forward_hook(lambda *_: recomputed.append(1))
        torch.manual_seed(2)
        return torch.autograd.grad(model(x, t).square().mean(), list(model.parameters()))

    plain = gradients(False)
    assert len(recomputed) == 1
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(True)))
    assert len(recomputed) == 3


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_derivatives_are_changes(use_checkpoint):
    """The first of the loss, and the second of the first, along a direction."""
    model = tiny(num_classes=5, use_checkpoint=use_checkpoint).double()
    x, t = batch(dtype=torch.float64)
    weights = list(model.parameters())
    direction = [torch.randn_like(w) for w in weights]

    def loss():
        return model(x, t, y=torch.tensor([1, 4])).square().mean()

    def at(shift, function):
        with torch.no_grad():
            torch._foreach_add_(weights, direction, alpha=shift)
        value = function()
        with torch.no_grad():
            torch._foreach_add_(weights, direction, alpha=-shift)
        return value

    def flat(tensors):
        return torch.cat([each.flatten() for each in tensors])

    gradient = functools.partial(torch.autograd.grad, inputs=weights)
    with twice_differentiable():
        first = gradient(loss(), create_graph=True)
        product = flat(torch.autograd.grad(first, weights, direction))
    h = 1e-6
    slope = (flat(first) * flat(direction)).sum()
    assert slope.item() == pytest.approx((at(h, loss) - at(-h, loss)).item() / (2 * h), rel=1e-6)
    ahead, behind = (flat(at(sign * h, lambda: gradient(loss()))) for sign in (1, -1))
    assert (product - (ahead - behind) / (2 * h)).norm() < 1e-6 * product.norm()


def test_fp16_blocks():
    model, (x, t) = tiny().eval(), batch()
    with torch.no_grad():
        expected = model(x, t)
        model.convert_to_fp16()
        output = model(x, t)
    assert model.dtype == torch.float16
    for name, parameter in model.named_parameters():
        half = name.startswith("blocks.")
        assert parameter.dtype == (torch.float16 if half else torch.float32), name
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=1e-2, atol=1e-2)
    model.convert_to_fp32()
    assert {p.dtype for p in model.parameters()} == {torch.float32} == {model.dtype}


def test_autocast_gives_float32():
    model, (x, t) = tiny(), batch()
    expected = model(x, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x, t)
    output.square().mean().backward()
    assert output.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert 0 < (output - expected).norm() < 0.05 * expected.norm()


def test_compiles_without_graph_breaks():
    model, (x, t), y = tiny(num_classes=5, dropout=0.1).eval(), batch(), torch.tensor([1, 4])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(x, t, y=y), model(x, t, y=y))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(patch_size=3), "image_size 8 does not divide .* --patch_size"),
        (dict(patch_size=0), "patch_size 0: give a divisor"),
        (dict(num_heads=3), r"32 channels.*num_heads = 3"),
        (dict(num_head_channels=5), r"32 channels.*num_head_channels = 5"),
        (dict(num_layers=0), "num_layers is 0; give 1"),
        (dict(null_label=True), "null_label is for networks with classes: give --class_cond True"),
    ],
)
def test_what_a_wrong_network_says(wrong, message):
    with pytest.raises(ValueError, match=message):
        tiny(**wrong)
    with pytest.raises(ValueError, match="num_channels is 30.*--num_channels that divide by 4"):
        ViT(8, 3, 30, 3, **SIZES)


def test_what_a_wrong_call_says():
    x, t = batch()
    with pytest.raises(ValueError, match="5 classes needs the labels y"):
        tiny(num_classes=5)(x, t)
    with pytest.raises(ValueError, match="without classes"):
        tiny()(x, t, y=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="6 x 8 pixels.*in 8 x 8"):
        tiny()(x[:, :, :6], t)
