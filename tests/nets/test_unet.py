"""The networks: guided-diffusion's layouts and outputs, attention written out, derivatives."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from chains import GOLDEN
from torch import nn
from torch.func import functional_call

from flatdiff.kernels import build
from flatdiff.kernels.calls import twice_differentiable
from flatdiff.nets.blocks import AttentionBlock, ResBlock
from flatdiff.nets.classifier import EncoderUNetModel
from flatdiff.nets.unet import SuperResModel, UNetModel

CHANNEL_MULT = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
UPSAMPLER = {"channel_mult": "1,1,2,2,4,4", "num_channels": 192, "class_cond": True}
RELEASED = {"learn_sigma": True, "resblock_updown": True, "attention_resolutions": "32,16,8"}


def strides(image_size, resolutions):
    return tuple(image_size // int(side) for side in resolutions.split(","))


def unet(
    network=UNetModel,
    image_size=64,
    num_channels=128,
    num_res_blocks=2,
    channel_mult="",
    attention_resolutions="16,8",
    learn_sigma=False,
    class_cond=False,
    **kwargs,
):
    """A U-Net from guided-diffusion's flags and defaults."""
    mult = [int(m) for m in channel_mult.split(",")] if channel_mult else CHANNEL_MULT[image_size]
    return network(
        image_size,
        3,
        num_channels,
        6 if learn_sigma else 3,
        num_res_blocks,
        strides(image_size, attention_resolutions),
        channel_mult=mult,
        num_classes=1000 if class_cond else None,
        **{"num_heads": 4, "use_scale_shift_norm": True, **kwargs},
    )


def classifier(image_size=64, width=128, depth=2, pool="attention"):
    return EncoderUNetModel(
        image_size,
        3,
        width,
        1000,
        depth,
        strides(image_size, "32,16,8"),
        channel_mult=CHANNEL_MULT[image_size],
        num_head_channels=64,
        use_scale_shift_norm=True,
        resblock_updown=True,
        pool=pool,
    )


def tiny(**kwargs):
    """The smallest U-Net that has every kind of block, with no layer left at zero."""
    torch.manual_seed(0)
    defaults = {"num_heads": 2, "use_scale_shift_norm": True, "channel_mult": (1, 2)}
    model = UNetModel(8, 3, 32, 3, 1, (2,), **{**defaults, **kwargs})
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model


def batch(size=2, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(size, 3, 8, 8, dtype=dtype), torch.tensor([7, 430])[:size]


def fill(model):
    """The golden file's `unet_fill`: weights that are a function of their place."""
    for i, (name, parameter) in enumerate(model.named_parameters()):
        values = 0.02 * torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + i)
        if parameter.ndim == 1 and name.endswith("weight"):
            values += 1
        parameter.data.copy_(values.view(parameter.shape))
    return model.eval()


def golden_images(n, side):
    return torch.cos(0.37 * torch.arange(n * 3 * side**2)).view(n, 3, side, side)


def assert_golden(output, golden):
    scale = golden["abs"] / output.numel()
    first = torch.tensor(golden["first"])
    torch.testing.assert_close(output.flatten()[:4], first, rtol=1e-4, atol=1e-4 * scale)
    assert output.double().sum().item() == pytest.approx(golden["sum"], abs=1e-4 * golden["abs"])
    assert output.double().abs().sum().item() == pytest.approx(golden["abs"], rel=1e-4)


def layout(model):
    lines = [f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", [k for k, v in GOLDEN.items() if "kw" in v])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_outputs_are_guided_diffusions(name, memory_format):
    golden = GOLDEN[name]
    build.use()  # compiled layers, which take channels_last alone
    model = fill(unet(**golden["kw"])).to(memory_format=memory_format)
    labels = {"y": torch.tensor([3, 7])} if "class_cond" in golden["kw"] else {}
    x = golden_images(2, side=32).contiguous(memory_format=memory_format)
    with torch.no_grad():
        output = model(x, torch.tensor([0, 421]), **labels)
    assert layout(model) == golden["layout"]
    assert list(output.shape) == golden["shape"]
    assert_golden(output, golden["out"])


def test_super_resolution_is_guided_diffusions():
    flags = {"num_channels": 32, "num_res_blocks": 1, "attention_resolutions": "16"}
    model = fill(unet(SuperResModel, learn_sigma=True, **flags))
    low_res = torch.sin(0.21 * torch.arange(768)).view(1, 3, 16, 16)
    with torch.no_grad():
        output = model(golden_images(1, side=64), torch.tensor([421]), low_res=low_res)
    assert_golden(output, GOLDEN["superres_64_16"]["out"])


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_classifiers_are_guided_diffusions(pool):
    golden = GOLDEN[f"classifier_{pool}"]
    model = fill(classifier(width=64, depth=1, pool=pool))
    with torch.no_grad():
        output = model(golden_images(1, side=64), torch.tensor([421]))
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    assert list(output.shape) == golden["shape"]
    assert_golden(output, golden["out"])


PUBLISHED = {
    "64x64_diffusion.pt": lambda: unet(
        num_channels=192, num_res_blocks=3, num_head_channels=64, class_cond=True, **RELEASED
    ),
    "128x128_diffusion.pt": lambda: unet(
        image_size=128, num_channels=256, class_cond=True, **RELEASED
    ),
    "256x256_diffusion.pt": lambda: unet(
        image_size=256, num_channels=256, num_head_channels=64, class_cond=True, **RELEASED
    ),
    "256x256_diffusion_uncond.pt (= lsun_*.pt)": lambda: unet(
        image_size=256, num_channels=256, num_head_channels=64, **RELEASED
    ),
    "512x512_diffusion.pt": lambda: unet(
        image_size=512, num_channels=256, num_head_channels=64, class_cond=True, **RELEASED
    ),
    "spec CIFAR-10 (32, default heads)": lambda: unet(
        image_size=32, num_res_blocks=3, learn_sigma=True
    ),
    "forever208 CIFAR-10 ADM.pt": lambda: unet(
        image_size=32,
        num_res_blocks=3,
        num_head_channels=32,
        **{**RELEASED, "attention_resolutions": "16,8"},
    ),
    "64_256_upsampler.pt": lambda: unet(SuperResModel, image_size=256, **UPSAMPLER, **RELEASED),
    "128_512_upsampler.pt": lambda: unet(
        SuperResModel,
        image_size=512,
        num_head_channels=64,
        **UPSAMPLER,
        **{**RELEASED, "attention_resolutions": "32,16"},
    ),
    "64x64_classifier.pt": lambda: classifier(64, depth=4),
    "128x128_classifier.pt": lambda: classifier(128),
    "256x256_classifier.pt": lambda: classifier(256),
    "512x512_classifier.pt": lambda: classifier(512),
}


@pytest.mark.parametrize("checkpoint", [name for name in GOLDEN["layouts"] if name != "_rule"])
def test_published_checkpoints_fit(checkpoint):
    with torch.device("meta"):
        model = PUBLISHED[checkpoint]()
    assert layout(model) == GOLDEN["layouts"][checkpoint]["sha256"]
    assert [name for name, _ in model.named_parameters()] == list(model.state_dict())


def written_out_attention(block, x, row_of):
    """softmax(q k^T / sqrt(ch)) v, a head at a time; row_of(part, head, ch) is a row of qkv."""
    n, channels, height, width = x.shape
    heads, ch = block.num_heads, channels // block.num_heads
    tokens = F.group_norm(x, 32, block.norm.weight, block.norm.bias, 1e-5).flatten(2)
    qkv = torch.einsum("oc,nct->not", block.qkv.weight[..., 0], tokens)
    qkv = qkv + block.qkv.bias[:, None]
    outputs = []
    for head in range(heads):
        q, k, v = (qkv[:, [row_of(part, head, c) for c in range(ch)]] for part in range(3))
        scores = torch.einsum("nct,ncs->nts", q, k) / ch**0.5
        outputs.append(torch.einsum("nts,ncs->nct", scores.softmax(dim=2), v))
    h = torch.einsum("oc,nct->not", block.proj_out.weight[..., 0], torch.cat(outputs, dim=1))
    return x + (h + block.proj_out.bias[:, None]).view(n, channels, height, width)


def attention_block(new_order, heads=4):
    torch.manual_seed(0)
    block = AttentionBlock(32, num_heads=heads, use_new_attention_order=new_order)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_is_the_formula(new_order):
    block = attention_block(new_order)
    if new_order:  # [q|k|v][head][ch]
        row_of = lambda part, head, c: part * 32 + head * 8 + c  # noqa: E731
    else:  # [head][q|k|v][ch]
        row_of = lambda part, head, c: head * 24 + part * 8 + c  # noqa: E731
    x = torch.randn(2, 32, 3, 5)
    expected = written_out_attention(block, x, row_of)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_attention_orders_differ_by_a_permutation_of_rows():
    legacy, new = attention_block(False), attention_block(True)
    rows = torch.arange(96).view(4, 3, 8).transpose(0, 1).flatten()
    with torch.no_grad():
        new.qkv.weight.copy_(legacy.qkv.weight[rows])
        new.qkv.bias.copy_(legacy.qkv.bias[rows])
    x = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(new(x), legacy(x))


def test_attention_takes_any_number_of_dimensions():
    block = attention_block(True)
    x = torch.randn(2, 32, 2, 3, 4)
    flat = block(x.flatten(2))
    assert flat.shape == (2, 32, 24)
    torch.testing.assert_close(block(x).flatten(2), flat)


@pytest.mark.parametrize("resblock_updown", [False, True])
def test_channels_last_is_kept_and_changes_nothing(resblock_updown):
    model = tiny(resblock_updown=resblock_updown)
    x, t = batch()
    expected = model(x, t)
    model.to(memory_format=torch.channels_last)
    lost = []

    def note_layout(module, args, output):
        if not output.is_contiguous(memory_format=torch.channels_last):
            lost.append(module)

    for module in model.modules():
        if isinstance(module, ResBlock | AttentionBlock | nn.GroupNorm | nn.Conv2d):
            module.register_forward_hook(note_layout)
    output = model(x.to(memory_format=torch.channels_last), t)
    assert lost == []
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_checkpointing_keeps_dropout_masks():
    x, t = batch()
    recomputed = []

    def gradients(use_checkpoint):
        model = tiny(use_checkpoint=use_checkpoint, dropout=0.5)
        model.middle_block[1].qkv.register_forward_hook(lambda *_: recomputed.append(1))
        torch.manual_seed(2)
        return torch.autograd.grad(model(x, t).square().mean(), list(model.parameters()))

    plain = gradients(False)
    assert len(recomputed) == 1
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(True)))
    assert len(recomputed) == 3, "attention follows the flag, too"


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_frozen_weights_leave_the_other_gradients_alone(use_checkpoint):
    x, t = batch()
    model, frozen = tiny(use_checkpoint=use_checkpoint), tiny(use_checkpoint=use_checkpoint)
    frozen.input_blocks.requires_grad_(False)
    for m in (model, frozen):
        m(x, t).square().mean().backward()
    for (name, parameter), other in zip(model.named_parameters(), frozen.parameters()):
        if name.startswith("input_blocks"):
            assert other.grad is None
        else:
            torch.testing.assert_close(other.grad, parameter.grad)


def test_functional_call_is_the_network_with_those_weights():
    x, t = batch()
    model, other = tiny(), tiny()
    weights = {name: 1.1 * p.detach() for name, p in model.named_parameters()}
    other.load_state_dict(weights)
    other(x, t).square().mean().backward()
    gradient = torch.func.grad(lambda w: functional_call(model, w, (x, t)).square().mean())
    for (name, g), parameter in zip(gradient(weights).items(), other.parameters()):
        torch.testing.assert_close(g, parameter.grad, msg=name)


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_second_derivative_is_the_change_of_the_first(use_checkpoint):
    model = tiny(num_classes=5, use_checkpoint=use_checkpoint).double()
    x, t = batch(dtype=torch.float64)
    weights = list(model.parameters())
    direction = [torch.randn_like(w) for w in weights]

    def gradient(create_graph=False):
        loss = model(x, t, y=torch.tensor([1, 4])).square().mean()
        return torch.autograd.grad(loss, weights, create_graph=create_graph)

    with twice_differentiable():
        product = torch.autograd.grad(gradient(create_graph=True), weights, direction)

    def gradient_at(shift):
        with torch.no_grad():
            torch._foreach_add_(weights, direction, alpha=shift)
        return gradient()

    h = 1e-6
    ahead, behind = gradient_at(h), gradient_at(-2 * h)
    difference = torch.cat([((a - b) / (2 * h)).flatten() for a, b in zip(ahead, behind)])
    product = torch.cat([p.flatten() for p in product])
    assert (product - difference).norm() < 1e-6 * difference.norm()


def test_fp16_torso():
    model = tiny(use_new_attention_order=True).eval()
    x, t = batch()
    with torch.no_grad():
        expected = model(x, t)
        model.convert_to_fp16()
        output = model(x, t)
    assert model.dtype == torch.float16
    convolutions = (nn.Conv1d, nn.Conv2d)
    for name, module in model.named_modules():
        half = isinstance(module, convolutions) and not name.startswith("out.")
        for parameter in module.parameters(recurse=False):
            assert parameter.dtype == (torch.float16 if half else torch.float32), name
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=1e-2, atol=1e-2)
    model.convert_to_fp32()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.dtype == torch.float32


@pytest.mark.parametrize("network", ["unet", "classifier"])
def test_autocast_gives_float32(network):
    model = tiny() if network == "unet" else tiny_classifier("attention")
    norms = []
    hook = lambda module, args, output: norms.append(args[0].dtype)  # noqa: E731
    model.middle_block[0].in_layers[0].register_forward_hook(hook)
    x, t = batch()
    expected = model(x, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x, t)
    output.square().mean().backward()
    assert norms == [torch.float32, torch.bfloat16]
    assert output.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert (output - expected).norm() < 0.05 * expected.norm()


def tiny_classifier(pool, num_head_channels=32):
    torch.manual_seed(0)
    kwargs = {"channel_mult": (1, 2), "num_head_channels": num_head_channels, "pool": pool}
    return EncoderUNetModel(8, 3, 32, 10, 1, (2,), **kwargs)


def test_compiles_without_graph_breaks():
    model = tiny(num_classes=5, dropout=0.1).eval()
    x, t = batch()
    y = torch.tensor([1, 4])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(x, t, y=y), model(x, t, y=y))


def test_what_a_wrong_network_says():
    with pytest.raises(ValueError, match=r"48 channels.*num_channels \(or channel_mult\)"):
        tiny(channel_mult=(1, 1.5))
    with pytest.raises(ValueError, match=r"64 channels.*num_head_channels = 48"):
        tiny(num_head_channels=48)
    with pytest.raises(ValueError, match=r"64 channels.*num_heads = 3"):
        tiny(num_heads=3)
    for zero in ("num_heads", "num_heads_upsample", "num_head_channels"):
        with pytest.raises(ValueError, match=r"divide into .*num_head.* = 0.* divisor"):
            tiny(**{zero: 0})
    with pytest.raises(ValueError, match=r"side 8 cannot be halved 4 times.*channel_mult"):
        tiny(channel_mult=(1, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="'attention' needs num_head_channels"):
        tiny_classifier("attention", num_head_channels=-1)
    with pytest.raises(ValueError, match=r"pool is 'max'.*spatial_v2"):
        tiny_classifier("max")


def test_what_a_wrong_call_says():
    x, t = batch()
    with pytest.raises(ValueError, match="5 classes needs the labels y"):
        tiny(num_classes=5)(x, t)
    with pytest.raises(ValueError, match="without classes"):
        tiny()(x, t, y=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"side 7 x 8 cannot be halved 1 times"):
        tiny()(x[:, :, :7], t)
    with pytest.raises(ValueError, match="needs low_res"):
        SuperResModel(8, 3, 32, 3, 1, (), channel_mult=(1,))(x, t)
    with pytest.raises(ValueError, match="4 positions and is made for 16.*image_size"):
        tiny_classifier("attention")(x[:, :, :4, :4], t)
