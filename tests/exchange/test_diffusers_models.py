"""Networks from pipelines and folders that diffusers itself has written."""

import ast
import builtins
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
)
from foreign import CLOSE, dit, ours, squares, text_unet, unet

from flatdiff.exchange import diffusers_models
from flatdiff.exchange.diffusers_models import WEIGHTS, from_diffusers

T = torch.tensor([3, 740])


@pytest.fixture
def folder(tmp_path):
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    DDPMPipeline(unet(), scheduler).save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


def errors(found, **kwargs):
    """Of one image at two timesteps, by its family; and by the scheduler's own functions."""
    torch.manual_seed(1)
    x, noise = torch.rand(2, *found.size) * 2 - 1, torch.randn(2, *found.size)
    levels, _ = found.family.levels(found.family.timesteps[T])
    network = found.family.network(found.module)
    with torch.no_grad():
        return x, noise, levels.training_losses(network, x, torch.arange(2), kwargs, noise)["mse"]


@pytest.mark.parametrize("kind", ["pipeline", "folder", "path", "network", "part", "beside"])
def test_a_network_of_a_pipeline(folder, kind):
    net, scheduler = unet(), DDPMScheduler(prediction_type="v_prediction")
    given = {
        "pipeline": (DDPMPipeline(net.train(), scheduler),),
        "folder": (folder,),
        "path": (str(folder),),
        "network": (net, scheduler),
        "part": (folder / "unet", scheduler),
        "beside": (folder / "unet",),
    }[kind]
    found = from_diffusers(*given)
    assert not found.module.training and found.size == (3, 8, 8) and found.kwargs == {}
    x, noise, errors_found = errors(found)
    with torch.no_grad():
        output = net.eval()(scheduler.add_noise(x, noise, T), T).sample
    wanted = squares(output - scheduler.get_velocity(x, noise, T))
    torch.testing.assert_close(errors_found, wanted, **CLOSE)


def test_what_networks_must_be_given(tmp_path):
    scheduler = DDPMScheduler()
    found = from_diffusers(text_unet(), scheduler)
    assert found.kwargs == {"encoder_hidden_states": "[N, L, 12]"}
    states = torch.randn(2, 5, 12)
    x, noise, errors_found = errors(found, encoder_hidden_states=states)
    with torch.no_grad():
        output = text_unet()(scheduler.add_noise(x, noise, T), T, states).sample
    torch.testing.assert_close(errors_found, squares(output - noise), **CLOSE)

    found = from_diffusers(unet(num_class_embeds=7), scheduler)
    assert found.kwargs == {"class_labels": "[N], whole numbers below 7"}
    errors(found, class_labels=torch.tensor([0, 6]))

    dit().save_pretrained(tmp_path / "transformer")
    scheduler.save_pretrained(tmp_path / "scheduler")
    index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    found = from_diffusers(tmp_path)
    assert found.kwargs == {"class_labels": "[N], whole numbers below 1000"}
    labels = torch.tensor([0, 999])
    x, noise, errors_found = errors(found, class_labels=labels)
    with torch.no_grad():
        output = dit()(scheduler.add_noise(x, noise, T), T, labels).sample[:, :3]
    torch.testing.assert_close(errors_found, squares(output - noise), **CLOSE)


def test_a_network_whose_timestep_comes_later():
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    widths = {"joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 6}
    how = {"in_channels": 3, "out_channels": 3, "pos_embed_max_size": 8}
    net = SD3Transformer2DModel(**sizes, **widths, **how).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    for wrapped in (net, torch.nn.DataParallel(net), torch.compile(net, backend="eager")):
        found = from_diffusers(wrapped, scheduler)
        assert found.kwargs == {
            "encoder_hidden_states": "[N, L, 12]",
            "pooled_projections": "[N, 6]",
        }
        kwargs = {k: torch.randn(2, *((5, 12) if "hid" in k else (6,))) for k in found.kwargs}
        x, noise = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
        t, s = scheduler.timesteps[[100, 800]], scheduler.sigmas[[100, 800]].double().numpy()
        errors = ours(found.family, wrapped, 2 * np.log((1 - s) / s), x, noise, **kwargs)[0]
        with torch.no_grad():
            output = net(scheduler.scale_noise(x, t, noise), timestep=t, **kwargs).sample
        torch.testing.assert_close(errors, squares(output - (noise - x)), **CLOSE)


def test_the_rest_of_a_pipeline_is_not_loaded(tmp_path):
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    pipeline = DiTPipeline(dit(), vae, DDPMScheduler())
    assert from_diffusers(pipeline).module is pipeline.transformer
    pipeline.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "vae")
    assert from_diffusers(tmp_path).size == (3, 8, 8)


@pytest.mark.parametrize(
    "scheduler", [EDMEulerScheduler(), FlowMatchEulerDiscreteScheduler(shift=3.0)]
)
def test_continuous_schedulers_are_read_from_folders(folder, scheduler):
    shutil.rmtree(folder / "scheduler")
    scheduler.save_pretrained(folder / "scheduler")
    found, same = from_diffusers(folder).family, from_diffusers(unet(), scheduler).family
    assert found.schedule == same.schedule and found.predicts == same.predicts


def test_a_schedule_of_ones_own_is_taken(folder):
    known = from_diffusers(folder, "flow", "v", times=lambda s: 1000 * s).family
    assert known.schedule.path == "flow" and known.levels([0.0])[0].times == [500]
    assert from_diffusers(folder, predicts="x").family.predicts == "x"


def test_diffusers_and_azula_are_not_imported_with_the_rooms():
    rooms = Path(diffusers_models.__file__).parent.glob("*.py")
    for room in rooms:
        imports = [n for n in ast.parse(room.read_text()).body if isinstance(n, ast.Import)]
        froms = [n for n in ast.parse(room.read_text()).body if isinstance(n, ast.ImportFrom)]
        names = {alias.name for n in imports for alias in n.names} | {n.module for n in froms}
        assert not {"diffusers", "azula"} & {(name or "").partition(".")[0] for name in names}


def test_half_precision_on_disk_is_loaded_as_fp32(tmp_path):
    DDIMPipeline(unet().half(), DDPMScheduler()).save_pretrained(tmp_path)
    assert from_diffusers(tmp_path).module.dtype == torch.float32


def damage(folder, what):
    config = json.loads((folder / "unet" / "config.json").read_text())
    if what in ("VQModel", "DDPMPipeline", "Nothing", None):
        config["_class_name"] = what
    if what == "other sizes":
        config["block_out_channels"] = [8, 24]
    if what == "more weights":
        config["num_class_embeds"] = 7
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    weights = folder / "unet" / WEIGHTS
    if what == "no weights":
        weights.unlink()
    if what == "half the weights":
        weights.write_bytes(weights.read_bytes()[:20000])
    if what == "no unet":
        shutil.rmtree(folder / "unet")
    if what == "no scheduler":
        shutil.rmtree(folder / "scheduler")
    if what == "no network":
        (folder / "model_index.json").write_text('{"_class_name": "X", "scheduler": ["d", "s"]}')
    if what == "no index":
        (folder / "model_index.json").unlink()
    if what == "no json":
        (folder / "unet" / "config.json").write_text('{"_class_name": "UNet')


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("VQModel", "VQModel is told no timestep; expected a network that is, such as UNet2DM"),
        ("DDPMPipeline", "unet is a DDPMPipeline; expected a network such as UNet2DModel"),
        ("Nothing", "config.json names the class 'Nothing', which diffusers .* has not"),
        (None, "config.json names the class None"),
        ("other sizes", "safetensors is damaged, or not of the UNet2DModel of its config.json"),
        (
            "more weights",
            "has not the weights of a UNet2DModel.*1 are missing.*class_embedding.weight",
        ),
        ("no weights", "safetensors is missing: expected it, or its parts"),
        ("half the weights", "safetensors is damaged, or not of"),
        ("no unet", "unet/config.json is missing: half a folder"),
        ("no scheduler", "comes with no scheduler.*in it, or beside it.*; expected one, or schedu"),
        ("no network", "model_index.json names no unet or transformer"),
        ("no index", "is no folder of diffusers: it has neither model_index.json nor config.json"),
        ("no json", "config.json is not whole"),
    ],
)
def test_half_a_folder_is_refused(folder, what, message):
    damage(folder, what)
    with pytest.raises(ValueError, match=message) as found:
        from_diffusers(folder)
    assert "huggingface" not in str(found.value)


def test_what_is_no_pipeline_is_refused(monkeypatch, folder):
    with pytest.raises(ValueError, match="object has no network called unet or transformer"):
        from_diffusers(object())
    with pytest.raises(ValueError, match="UNet2DModel comes with no scheduler"):
        from_diffusers(unet())
    with pytest.raises(ValueError, match="UNet2DModel gives 4 channels for 9; expected as many"):
        from_diffusers(unet(in_channels=9, out_channels=4), DDPMScheduler())
    with pytest.raises(ValueError, match="Linear is told no timestep"):
        from_diffusers(torch.nn.Linear(2, 2), DDPMScheduler())
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "diffusers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match="needs diffusers.*pip install diffusers"):
        from_diffusers(folder)
