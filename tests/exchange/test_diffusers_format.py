"""Networks and chains in diffusers' words: it loads them, and computes the same."""

import dataclasses
import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from exporting import assert_is_the_same, run
from networks import OF_DIFFUSERS as MODEL
from small import save_run

import flatdiff
from flatdiff.exchange import diffusers_config, diffusers_format
from flatdiff.flags import config
from flatdiff.models import factories, networks

VARIANTS = {
    "published": dict(resblock_updown=True, class_cond=True, num_classes=7, learn_sigma=True),
    "null": dict(class_cond=True, num_classes=6, class_dropout=0.1),
    "cifar": dict(use_new_attention_order=True, learn_sigma=True, num_res_blocks=2),
    "plain": dict(use_scale_shift_norm=False, attention_resolutions="16,4"),
    "heads": dict(channel_mult="1,2,2", num_head_channels=-1, num_heads=2, resblock_updown=True),
}


def make(steps=1000, **flags):
    """(ModelFlags, DiffusionFlags, network with random weights everywhere, chain)."""
    chain = {k: flags.pop(k) for k in tuple(flags) if not hasattr(MODEL, k)}
    model_flags = dataclasses.replace(MODEL, **flags)
    diffusion_flags = config.DiffusionFlags(diffusion_steps=steps, **chain)
    model, diffusion = networks.build(model_flags, diffusion_flags)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) * (0.2 if weight.ndim < 2 else 0.05))
    return model_flags, diffusion_flags, model.eval(), diffusion


def came_back(folder):
    """The flags of the network in a folder that --reverse True has made."""
    return json.loads((folder / "config.json").read_text())["model"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_diffusers_loads_the_network_and_computes_the_same_and_back(tmp_path, monkeypatch, variant):
    torch.manual_seed(0)
    model_flags, diffusion_flags, model, _ = make(**VARIANTS[variant])
    path = save_run(tmp_path / "run", model, model=model_flags, diffusion=diffusion_flags)
    run(monkeypatch, model_path=path, out_dir=tmp_path / "export")
    unet, report = UNet2DModel.from_pretrained(
        tmp_path / "export" / "unet", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 871])
    y = torch.tensor([1, 6]) if model_flags.class_cond else None
    with torch.no_grad():
        ours = model(x, t, y)
        assert (unet(x, t, class_labels=y).sample - ours).abs().max() < 1e-5
    assert ours.std() > 0.1

    order = model_flags.use_new_attention_order
    unet.save_pretrained(tmp_path / "saved" / "unet")  # by diffusers itself, with all its keys
    (tmp_path / "export" / "scheduler").rename(tmp_path / "saved" / "scheduler")
    run(
        monkeypatch, reverse=True, model_path=tmp_path / "saved", out_dir=tmp_path / "back",
        use_new_attention_order=order,
    )  # fmt: skip
    assert_is_the_same(tmp_path / "back", model, (x, t, y), ours)
    same = ("num_classes", "class_dropout") if model_flags.class_cond else ()
    assert all(came_back(tmp_path / "back")[k] == getattr(model_flags, k) for k in same)


@pytest.mark.parametrize(("dropout", "classes"), [(0.0, 7), (0.2, 6)])
def test_of_a_folder_that_says_nothing_of_it_the_last_label_is_null_where_that_is_told(
    tmp_path, monkeypatch, dropout, classes
):
    model_flags, diffusion_flags, model, _ = make(**VARIANTS["null"])
    path = save_run(tmp_path / "run", model, model=model_flags, diffusion=diffusion_flags)
    run(monkeypatch, model_path=path, out_dir=tmp_path / "export")
    unet = tmp_path / "export" / "unet" / "config.json"
    told = {k: v for k, v in json.loads(unet.read_text()).items() if "null_label" not in k}
    unet.write_text(json.dumps(told))
    run(
        monkeypatch, reverse=True, model_path=tmp_path / "export", out_dir=tmp_path / "back",
        class_dropout=dropout,
    )  # fmt: skip
    found = came_back(tmp_path / "back")
    assert (found["num_classes"], found["class_dropout"]) == (classes, dropout)


def test_a_network_without_classes_has_no_null_label():
    flags = {**vars(make()[0]), "learn_sigma": False}
    unet = diffusers_config.unet_config(flags)
    assert "num_classes" not in diffusers_config.model_flags(unet)
    with pytest.raises(ValueError, match="--class_dropout 0.1: the network .* has no classes"):
        diffusers_config.model_flags(unet, 0.1)


def test_back_in_the_other_order_of_q_k_v_it_is_the_same_network():
    torch.manual_seed(0)
    model_flags, _, model, _ = make()
    unet = diffusers_config.unet_config({**vars(model_flags), "learn_sigma": False})
    weights = diffusers_format.to_diffusers(model.state_dict(), unet, new_order=False)
    other = make(use_new_attention_order=True)[2]
    other.load_state_dict(diffusers_format.from_diffusers(weights, unet, new_order=True))
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([10])
    with torch.no_grad():
        assert torch.allclose(other(x, t), model(x, t), atol=1e-5)


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("noise_schedule", ["linear", "cosine"])
def test_diffusers_scheduler_draws_the_same_images(learn_sigma, noise_schedule):
    torch.manual_seed(0)
    flags = dict(learn_sigma=learn_sigma, noise_schedule=noise_schedule, channel_mult="1")
    _, diffusion_flags, model, _ = make(**flags, timestep_respacing="12")
    assert_same_images(model, diffusion_flags, 12)


def test_and_of_a_network_that_predicts_images_over_all_steps():
    torch.manual_seed(0)
    _, diffusion_flags, model, _ = make(steps=25, predict_xstart=True, channel_mult="1")
    assert_same_images(model, diffusion_flags, 25)


def assert_same_images(model, diffusion_flags, steps):
    diffusion = factories.create_chain(dataclasses.asdict(diffusion_flags))
    scheduler = DDPMScheduler.from_config(
        diffusers_config.scheduler_config(dataclasses.asdict(diffusion_flags))
    )
    scheduler.set_timesteps(steps)
    start = torch.randn(2, 3, 8, 8)
    noise = torch.Generator().manual_seed(5)
    ours = diffusion.p_sample_loop(
        model, start.shape, noise=start, randn=lambda x: torch.randn(x.shape, generator=noise)
    )
    noise, x = torch.Generator().manual_seed(5), start
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = model(x, torch.full((2,), t))
            x = scheduler.step(output, t, x, generator=noise).prev_sample
    assert (x - ours).abs().max() < 1e-4  # its alphas are float32
    assert 0.1 < ours.std() < 1


def test_the_folder_is_a_pipeline_and_is_never_overwritten(tmp_path, monkeypatch):
    torch.manual_seed(0)
    flags, chain, model, _ = make(steps=30)
    path = save_run(tmp_path / "run", model, model=flags, diffusion=chain)
    run(monkeypatch, model_path=path, out_dir=tmp_path / "export")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "export", low_cpu_mem_usage=False)
    images = pipeline(num_inference_steps=3, output_type="np").images
    assert images.shape == (1, 16, 16, 3)
    with pytest.raises(SystemExit):
        run(monkeypatch, model_path=path, out_dir=tmp_path / "run")


def test_weights_of_another_network_are_refused():
    unet = diffusers_config.unet_config({**vars(MODEL), "learn_sigma": False})
    labelled = make(class_cond=True)[2].state_dict()
    with pytest.raises(ValueError, match=r"knows no weights label_emb.weight, \.\.\."):
        diffusers_format.to_diffusers(labelled, unet, new_order=False)


@pytest.mark.parametrize("objective", ["flow", "edm", "edm sigma_max=40.0", "ddpm"])
def test_other_objectives_are_the_same_network_there_at_every_noise_level(
    tmp_path, monkeypatch, objective
):
    """Image by image, the error in x by our chain, and by diffusers' network and scheduler."""
    torch.manual_seed(0)
    predicts = "v" if objective == "ddpm" else ""
    flags, chain, model, _ = make(objective=objective, predicts=predicts)
    path = save_run(tmp_path / "run", model, model=flags, diffusion=chain)
    run(monkeypatch, model_path=path, out_dir=tmp_path / "there")
    ours = flatdiff.subject.from_checkpoint(str(path), torch.rand(32, 3, 16, 16) * 2 - 1)
    unet = str(tmp_path / "there" / "unet")
    theirs = flatdiff.subject.from_diffusers(unet, ours.draws.x_start, levels=ours)
    inside = ours.log_snr.abs() < 8
    found, wanted = (s.own[s.terms.index("x_mse")][inside] for s in (theirs, ours))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-9)
    assert wanted.min() > 0 and len(wanted) > 10
    run(monkeypatch, reverse=True, model_path=tmp_path / "there", out_dir=tmp_path / "back")
    kept = json.loads((tmp_path / "back" / "config.json").read_text())["diffusion"]
    assert kept == json.loads(json.dumps(dataclasses.asdict(chain)))


def test_what_no_scheduler_of_diffusers_says_is_not_exported(tmp_path, monkeypatch):
    flags, chain, model, _ = make(objective="flow", predicts="x")
    path = save_run(tmp_path / "run", model, model=flags, diffusion=chain)
    with pytest.raises(SystemExit):
        run(monkeypatch, model_path=path, out_dir=tmp_path / "there")
    with pytest.raises(ValueError, match="predicts v, and this network x"):
        diffusers_config.scheduler_of(dataclasses.asdict(chain))
