"""DINOv2's features against those that transformers computed, and files that are none of it."""

import numpy as np
import pytest
import torch
from PIL import Image

from flatdiff.judge import dinov2
from flatdiff.judge.features import load_features

SIZES = dict(width=12, depth=2, heads=3, grid=16)
THEIRS = [  # class tokens of transformers' Dinov2Model 5.24, of `weights` and `pictures`
    *(0.0590, -0.1672, 0.2881, -0.1118, -0.1021, -0.1861),
    *(-0.2503, 0.1022, 0.2131, 0.2702, -0.1057, -0.1178),
    *(0.0528, -0.1803, 0.3067, -0.1044, -0.1020, -0.1859),
    *(-0.2512, 0.0995, 0.2143, 0.2691, -0.1119, -0.1174),
]


def weights(network):
    rng = np.random.default_rng(0)
    state = sorted(network.state_dict().items())
    return {k: torch.from_numpy(rng.normal(0, 0.2, v.shape).astype(np.float32)) for k, v in state}


def pictures():
    found = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    found[1, :100] = 30
    return torch.from_numpy(found).permute(0, 3, 1, 2)


@pytest.fixture
def network():
    made = dinov2.DINOv2(**SIZES).eval()
    made.load_state_dict(weights(made))
    return made


def test_it_is_transformers_network(network):
    with torch.inference_mode():
        found = network(pictures())["pool"]
    assert found.flatten().tolist() == pytest.approx(THEIRS, abs=1e-4)


def cubic(distance, a=-0.75):
    """The kernel of cubic convolution (Keys 1981, equation 15)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    return np.where(d < 1, near, np.where(d < 2, a * (d**3 - 5 * d**2 + 8 * d - 4), 0))


def test_positions_of_another_grid_are_read_at_the_published_scale(network):
    """Those of ten patches of a side, in a grid of 16, at a scale of 10.1 / 16."""
    column = np.random.default_rng(4).standard_normal(16)
    network.pos_embed.data[:, 1:, 0] = torch.from_numpy(np.tile(column, 16))
    found = network.positions(16, 10)[0, 1:, 0].view(16, 10)
    places = (np.arange(10) + 0.5) / (10.1 / 16) - 0.5
    expected = cubic(places[:, None] - np.arange(16)) @ column
    assert np.allclose(found[5, 1:-1].detach(), expected[1:-1], atol=1e-4)  # away from the edges
    assert torch.equal(network.positions(16, 16), network.pos_embed)


def test_images_are_resized_as_pillow_does(network):
    seen = []
    network.patch_embed["proj"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    network(torch.from_numpy(image).permute(2, 0, 1)[None])
    large = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (large / 255 - mean) / deviation
    assert np.abs(seen[0][0].permute(1, 2, 0).numpy() - expected).max() < 1.1 / 255 / 0.22


def test_the_published_file_is_loaded_and_others_are_told(tmp_path, monkeypatch):
    for name, value in zip(("WIDTH", "DEPTH", "HEADS", "GRID"), SIZES.values()):
        monkeypatch.setattr(dinov2, name, value)
    monkeypatch.setattr(dinov2.DINOv2.__init__, "__defaults__", tuple(SIZES.values()))
    state = weights(dinov2.DINOv2())
    torch.save(state, tmp_path / "whole.pth")
    features = load_features(None, dinov2_weights=str(tmp_path / "whole.pth"), device="cpu")
    assert (features.name, features.dim, features.metric("FID")) == ("dinov2", 12, "FD-dinov2")
    assert features.network(pictures())["pool"].flatten().tolist() == pytest.approx(
        THEIRS, abs=1e-4
    )
    torch.save(state | {"norm.bias": torch.zeros(13)}, tmp_path / "other.pth")
    torch.save({k: v for k, v in state.items() if k != "cls_token"}, tmp_path / "lacks.pth")
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("none")
    for name, message in (
        ("other.pth", r"is not dinov2_vitl14_pretrain.pth.* 1 of its tensors .* as norm.bias; get"),
        ("lacks.pth", "1 of its tensors are missing, .* as cls_token"),
        ("text.pth", "cannot be read as weights; get dinov2_vitl14"),
        ("list.pth", "cannot be read as weights; get dinov2_vitl14"),
        ("nowhere.pth", "no DINOv2 weights at /"),
        ("", "need --dinov2_weights FILE"),
    ):
        path = str(tmp_path / name) if name else None
        with pytest.raises(ValueError, match=message):
            load_features("dinov2", dinov2_weights=path, device="cpu")
