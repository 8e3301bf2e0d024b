"""The networks: guided-diffusion's layouts and outputs, layouts in memory, derivatives."""

import pytest
import torch
from chains import GOLDEN
from networks import (
    assert_golden,
    batch,
    classifier,
    fill,
    golden_images,
    layout,
    tiny,
    tiny_classifier,
    unet,
)
from torch import nn
from torch.func import functional_call

from flatdiff.kernels import build
from flatdiff.kernels.calls import twice_differentiable
from flatdiff.nets.blocks import AttentionBlock, ResBlock
from flatdiff.nets.unet import SuperResModel

UPSAMPLER = {"channel_mult": "1,1,2,2,4,4", "num_channels": 192, "class_cond": True}
RELEASED = {"learn_sigma": True, "resblock_updown": True, "attention_resolutions": "32,16,8"}


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
