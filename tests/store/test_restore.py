"""Checkpoints into live objects: weights with a useful complaint, optimizers of both forms."""

import pytest
import torch
from torch import nn

from flatdiff.script_util import (
    create_classifier,
    create_model,
    sr_create_model_and_diffusion,
    sr_model_and_diffusion_defaults,
)
from flatdiff.store import checkpoint
from flatdiff.store.restore import load_optimizer, load_weights, optimizer_state

UNET = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "learn_sigma": True,
    "attention_resolutions": "16",
    "use_scale_shift_norm": True,
}
CLASSIFIER = {
    "image_size": 32,
    "classifier_use_fp16": False,
    "classifier_width": 64,
    "classifier_depth": 1,
    "classifier_attention_resolutions": "8",
    "classifier_use_scale_shift_norm": True,
    "classifier_resblock_updown": True,
    "classifier_pool": "attention",
    "num_classes": 10,
}


def complaint(network, held):
    with pytest.raises(ValueError) as error:
        load_weights(network, held.state_dict(), "run/model000100.pt")
    assert "run/model000100.pt does not fit" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("held", "blamed"),
    [
        ({"num_channels": 64}, "--num_channels (the file has 64)"),
        ({"class_cond": True, "num_classes": 10}, "--class_cond (the file has True)"),
        ({"learn_sigma": False}, "--learn_sigma (the file has False)"),
        ({"use_scale_shift_norm": False}, "--use_scale_shift_norm (the file has False)"),
        ({"num_res_blocks": 2}, "--num_res_blocks or --channel_mult or --image_size."),
        ({"channel_mult": "1,2,2"}, "--num_res_blocks or --channel_mult or --image_size."),
        ({"channel_mult": "1,3"}, "--channel_mult or --image_size."),
        ({"resblock_updown": True}, "--resblock_updown (the file has True)"),
        ({"attention_resolutions": "32"}, "--attention_resolutions or --image_size."),
    ],
)
def test_the_flag_that_differs_is_named_both_ways(held, blamed):
    one, other = create_model(**UNET), create_model(**UNET | held)
    assert complaint(one, other).endswith(f"Most likely wrong: {blamed}".rstrip(".") + ".")
    assert blamed.split(" (")[0].rstrip(".") in complaint(other, one)


@pytest.mark.parametrize(
    ("held", "blamed"),
    [
        ({"classifier_width": 128}, "--classifier_width (the file has 128)"),
        ({"classifier_depth": 2}, "--classifier_depth or --image_size."),
        ({"classifier_pool": "spatial"}, "--classifier_pool."),
        ({"num_classes": 11}, "--num_classes."),
        ({"classifier_resblock_updown": False}, "--classifier_resblock_updown (the file has"),
    ],
)
def test_classifier_flags_have_their_own_names(held, blamed):
    message = complaint(create_classifier(**CLASSIFIER), create_classifier(**CLASSIFIER | held))
    assert f"Most likely wrong: {blamed}" in message


@pytest.mark.parametrize(
    ("held", "blamed"),
    [
        (dict(num_channels=64, num_layers=3), "--num_channels (the file has 64)"),
        (dict(patch_size=2), "--patch_size (the file has 2)"),
        (dict(num_layers=3, class_cond=True), "--num_layers (the file has 3)"),
        (dict(class_cond=True), "--class_cond"),
        (dict(learn_sigma=True), "--learn_sigma"),
    ],
)
def test_flags_of_a_vision_transformer(held, blamed):
    flags = dict(image_size=8, num_channels=32, num_res_blocks=1, network="vit", num_layers=2)
    message = complaint(create_model(**flags), create_model(**flags | held))
    assert f"Most likely wrong: {blamed}" in message
    unet = create_model(**UNET)
    kinds = "The file holds a vision transformer; asked for was a diffusion network. Give --network"
    assert f"{kinds} vit." in complaint(unet, create_model(**flags))


def test_number_of_classes():
    ten, twelve = (create_model(**UNET, class_cond=True, num_classes=n) for n in (10, 12))
    assert "--num_classes (the file has 12)" in complaint(ten, twelve)


def test_other_kinds_of_files_are_recognised():
    unet = create_model(**UNET)
    assert "The file holds a classifier; asked for was a diffusion network." in complaint(
        unet, create_classifier(**CLASSIFIER)
    )
    small = {k: v for k, v in UNET.items() if k not in ("image_size", "channel_mult")}
    small |= {"large_size": 64, "small_size": 16}
    assert "The file holds a super-resolution network" in complaint(
        unet, sr_create_model_and_diffusion(**sr_model_and_diffusion_defaults() | small)[0]
    )
    assert "The file holds another kind of network." in complaint(unet, nn.Linear(2, 2))
    optimizer = torch.optim.AdamW(unet.parameters()).state_dict()
    with pytest.raises(ValueError, match=r"does not hold the weights.*state, param_groups"):
        load_weights(unet, optimizer, "opt000100.pt")


def test_the_message_counts_and_quotes_keys():
    a, b = nn.Linear(2, 3), nn.Linear(2, 4, bias=False)
    message = complaint(a, b)
    assert "1 weights of the network are not in the file (first: bias)" in message
    assert "weight, (4, 2) in the file and (3, 2) in the network" in message
    with pytest.raises(ValueError, match="Look in config.json$"):
        load_weights(a, b.state_dict(), "x.pt", hint="Look in config.json")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_prefixes_parameters_and_views_are_accepted(prefix):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    storage = torch.cat([p.detach().flatten() for p in source.parameters()])
    held = {"weight": nn.Parameter(storage[:6].view(2, 3)), "bias": storage[6:]}
    load_weights(target, {prefix + key: value for key, value in held.items()}, "x.pt")
    for a, b in zip(source.parameters(), target.parameters()):
        assert torch.equal(a, b)


# Optimizers


def network():
    """Vectors and matrices interleaved, in the layout of fast convolutions."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3), nn.Flatten())
    return net.to(memory_format=torch.channels_last)


def gradients(net, step):
    g = torch.Generator().manual_seed(step)
    for p in net.parameters():
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=g))


def steps(net, optimizer, first, last):
    for step in range(first, last):
        gradients(net, step)
        optimizer.step()


def adamw(net, **kwargs):
    return torch.optim.AdamW(net.parameters(), **{"lr": 1e-2, "weight_decay": 0.1} | kwargs)


@pytest.mark.parametrize("fused", [True, False])
def test_a_resumed_optimizer_goes_on_bitwise(fused, tmp_path):
    whole = network()
    steps(whole, adamw(whole, fused=fused), 0, 6)

    net = network()
    optimizer = adamw(net, fused=fused)
    steps(net, optimizer, 0, 3)
    path = str(tmp_path / "opt000003.pt")
    checkpoint.save(optimizer_state(optimizer), path)
    optimizer = adamw(net, fused=fused)
    load_optimizer(optimizer, checkpoint.load(path), net.named_parameters())
    steps(net, optimizer, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), net.parameters()))


def test_live_hyperparameters_stay_and_old_files_lack_keys():
    net = network()
    optimizer = adamw(net, lr=5e-5)
    steps(net, optimizer, 0, 2)
    old = optimizer.state_dict()
    keep = ("lr", "betas", "eps", "weight_decay", "params", "amsgrad")
    old["param_groups"] = [{k: v for k, v in g.items() if k in keep} for g in old["param_groups"]]
    old["state"] = {i: s | {"step": int(s["step"])} for i, s in old["state"].items()}
    fresh = adamw(net, lr=1e-3, weight_decay=0.3, fused=True)
    load_optimizer(fresh, old, net.named_parameters())
    group = fresh.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["fused"]) == (1e-3, 0.3, True)
    assert {float(s["step"]) for s in fresh.state.values()} == {2.0}
    steps(net, fresh, 2, 3)


def test_the_saved_file_is_a_plain_adamws(tmp_path):
    """As guided-diffusion loads it: straight into torch.optim.AdamW, which then does the same."""
    net = network()
    optimizer = adamw(net, fused=True)
    steps(net, optimizer, 0, 3)
    path = str(tmp_path / "opt000003.pt")
    checkpoint.save(optimizer_state(optimizer), path)
    saved = torch.load(path)
    plain = adamw(other := network())
    assert saved["param_groups"][0].keys() == plain.state_dict()["param_groups"][0].keys()
    assert saved["param_groups"] == plain.state_dict()["param_groups"]
    other.load_state_dict(net.state_dict())
    plain.load_state_dict(saved)
    steps(net, optimizer, 3, 4)
    steps(other, plain, 3, 4)
    for a, b in zip(net.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_two_tensor_files_of_fp16_runs():
    """AdamW over all vectors flattened and all else as [1, m] is AdamW over the parameters."""
    net = network()
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    others = [p for p in net.parameters() if p.ndim > 1]
    masters = [
        nn.Parameter(torch.cat([p.detach().flatten() for p in vectors])),
        nn.Parameter(torch.cat([p.detach().flatten() for p in others])[None]),
    ]
    flat = torch.optim.AdamW(masters, lr=1e-2, weight_decay=0.1)

    def flat_step(step):
        gradients(net, step)
        masters[0].grad = torch.cat([p.grad.flatten() for p in vectors])
        masters[1].grad = torch.cat([p.grad.flatten() for p in others])[None]
        flat.step()

    for step in range(3):
        flat_step(step)
    for members, master in zip((vectors, others), masters):
        pieces = master.detach().flatten().split([p.numel() for p in members])
        for p, piece in zip(members, pieces):
            p.data.copy_(piece.view(p.shape))
    optimizer = adamw(net, fused=True)
    load_optimizer(optimizer, flat.state_dict(), net.named_parameters())
    flat_step(3)
    steps(net, optimizer, 3, 4)
    for members, master in zip((vectors, others), masters):
        ours = torch.cat([p.detach().flatten() for p in members])
        torch.testing.assert_close(ours, master.detach().flatten(), rtol=1e-5, atol=1e-7)


def test_optimizers_of_other_networks_are_refused():
    net = network()
    optimizer = adamw(net)
    named = list(net.named_parameters())

    def refused(other, match):
        state = torch.optim.AdamW(other, lr=0.1)
        for p in other:
            p.grad = torch.zeros_like(p)
        state.step()
        with pytest.raises(ValueError, match=match):
            load_optimizer(optimizer, state.state_dict(), named)

    refused([nn.Parameter(torch.zeros(3)) for _ in named[:-1]], "has 5 parameters, the network 6")
    refused([nn.Parameter(torch.zeros(3)) for _ in named], r"exp_avg of 0.weight is \(3,\)")
    refused([nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1, 4))], "3 numbers where")
    with pytest.raises(ValueError, match="not an optimizer file"):
        load_optimizer(optimizer, net.state_dict(), named)


@pytest.mark.parametrize("kind", ["whole numbers", "complex numbers", "a weight twice"])
def test_weights_that_would_change_on_the_way_are_refused(kind):
    net = network()
    weights = net.state_dict()
    key = next(iter(weights))
    weights |= {
        "whole numbers": {key: weights[key].to(torch.int64)},
        "complex numbers": {key: weights[key] + 1j},
        "a weight twice": {f"module.{key}": weights[key] + 1},
    }[kind]
    with pytest.raises(ValueError, match=f"w.pt holds .*{key} as"):
        load_weights(net, weights, "w.pt")


def test_weights_that_fp32_does_not_hold_are_refused():
    weights = network().double().state_dict()
    load_weights(network(), weights, "w.pt")
    key = list(weights)[1]
    weights[key][0] = -1e39
    with pytest.raises(ValueError, match=f"w.pt holds {key} with numbers too large"):
        load_weights(network(), weights, "w.pt")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("exp_avg", torch.Tensor.int),
        ("exp_avg", torch.Tensor.bool),
        ("exp_avg", lambda moment: moment + 1j),
        ("exp_avg_sq", torch.Tensor.long),
        ("exp_avg_sq", lambda moment: moment - 1),
        ("exp_avg_sq", lambda moment: moment.double() + 1e39),
        ("step", lambda step: -step),
        ("step", lambda step: step + 0.5),
    ],
)
def test_moments_of_another_kind_are_refused(key, change):
    net = network()
    optimizer = adamw(net)
    steps(net, optimizer, 0, 2)
    state = optimizer_state(optimizer)
    load_optimizer(adamw(net), state, net.named_parameters())
    state["state"][1][key] = change(state["state"][1][key])
    with pytest.raises(ValueError, match=f"^{key} of parameter 1 is "):
        load_optimizer(adamw(net), state, net.named_parameters())
