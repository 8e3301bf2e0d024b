"""Vision transformers in diffusers' words: it loads them, and computes the same."""

import dataclasses

import pytest
import torch
from diffusers import DiTTransformer2DModel
from exporting import assert_is_the_same, run
from small import save_run

from flatdiff.exchange import dit_format
from flatdiff.flags import config
from flatdiff.models import networks
from flatdiff.nets.vit import ViT

MODEL = config.ModelFlags(
    network="vit", image_size=16, patch_size=4, num_channels=48, num_layers=3, num_heads=3
)
VARIANTS = {
    "unconditional": dict(),
    "labels": dict(class_cond=True, num_classes=7, learn_sigma=True),
    "hidden": dict(class_cond=True, num_classes=7, class_dropout=0.1),
    "heads": dict(num_head_channels=24, patch_size=2, num_layers=1, dropout=0.1),
}


def filled(model):
    """The network with random weights everywhere: a new one gives zeros."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) * (0.2 if weight.ndim < 2 else 0.05))
    return model.eval()


def make(learn_sigma=False, **flags):
    """(ModelFlags, DiffusionFlags, network with random weights)."""
    groups = dataclasses.replace(MODEL, **flags), config.DiffusionFlags(learn_sigma=learn_sigma)
    return *groups, filled(networks.build(*groups)[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_diffusers_loads_the_network_and_computes_the_same_and_back(tmp_path, monkeypatch, variant):
    torch.manual_seed(0)
    model_flags, diffusion_flags, model = make(**VARIANTS[variant])
    path = save_run(tmp_path / "run", model, model=model_flags, diffusion=diffusion_flags)
    run(monkeypatch, model_path=path, out_dir=tmp_path / "export")
    theirs, report = DiTTransformer2DModel.from_pretrained(
        tmp_path / "export" / "transformer", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([3, 871]), torch.tensor([1, 6])
    y = y if model_flags.class_cond else None
    with torch.no_grad():
        ours = model(x, t, y)
        told = torch.zeros(2, dtype=int) if y is None else y
        assert (theirs(x, t, class_labels=told).sample - ours).abs().max() < 1e-5
    assert ours.std() > 0.1

    theirs.save_pretrained(tmp_path / "saved" / "transformer")  # by diffusers, with all its keys
    (tmp_path / "export" / "scheduler").rename(tmp_path / "saved" / "scheduler")
    run(monkeypatch, reverse=True, model_path=tmp_path / "saved", out_dir=tmp_path / "back")
    assert_is_the_same(tmp_path / "back", model, (x, t, y), ours)


def test_the_row_without_a_label_is_theirs_too():
    torch.manual_seed(0)
    flags = vars(MODEL) | {"class_cond": True, "num_classes": 7, "learn_sigma": False}
    sizes = dict(patch_size=4, num_layers=3, num_heads=3)
    model = filled(ViT(16, 3, 48, 3, **sizes, num_classes=7, null_label=True))
    weights = dit_format.to_diffusers(model.state_dict(), flags)
    theirs = DiTTransformer2DModel(**dit_format.dit_config(flags)).eval()
    theirs.load_state_dict(weights)
    x, t, y = torch.randn(3, 3, 16, 16), torch.tensor([0.0, 5.5, 999.0]), torch.tensor([0, 6, 7])
    with torch.no_grad():
        assert (theirs(x, t, class_labels=y).sample - model(x, t, y)).abs().max() < 1e-5
    told = dit_format.model_flags(dict(theirs.config), weights)
    assert told["class_dropout"] == 0.1 and told["num_classes"] == 7
    back = dit_format.from_diffusers(weights, told)
    assert all(torch.equal(back[k], v) for k, v in model.state_dict().items())


def test_what_a_vit_cannot_express_is_refused_by_name():
    torch.manual_seed(0)
    sizes = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8)
    stranger = DiTTransformer2DModel(**sizes, in_channels=4, num_embeds_ada_norm=5)
    weights = stranger.state_dict()
    with pytest.raises(ValueError, match="in_channels is 4, expected 3.*norm_eps is 1e-05"):
        dit_format.model_flags(dict(stranger.config), weights)
    with pytest.raises(ValueError, match="no config of a DiTTransformer2DModel"):
        dit_format.model_flags({"sample_size": 32}, weights)
    ours = DiTTransformer2DModel(
        **sizes, in_channels=3, out_channels=3, num_embeds_ada_norm=5, norm_eps=1e-6
    )
    weights = ours.state_dict()  # whose two blocks were drawn apart
    flags = dit_format.model_flags(dict(ours.config), weights)
    name = r"transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight is not that of block"
    with pytest.raises(ValueError, match=name):
        dit_format.from_diffusers(weights, flags)
    with pytest.raises(ValueError, match="lack 'proj_out_1.weight'"):
        dit_format.from_diffusers(
            {k: v for k, v in weights.items() if not k.startswith("proj_out_1")}, flags
        )
