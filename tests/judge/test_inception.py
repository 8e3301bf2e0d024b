"""Inception against torch-fidelity's numbers, its published file, and TensorFlow 1's resizing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import images

from flatdiff.judge import inception
from flatdiff.judge.features import load_features
from flatdiff.judge.image_source import open_images

# torch-fidelity 0.4.0's features of images(2, 32, 1)[1] with the weights `state`
POOL = [1.60022, 0.443145, 4.07175, 0.485359, 0.164366, 3.23641, 3.6146, 9.51685]
SPATIAL = [4.67181, 1.48306, 0.901711, 7.16864, 8.63464, 0, 0]
LOGITS = [-11.2998, -15.6648, -4.07548, 7.57724, -6.15559, 14.5064, 8.25511]


@pytest.fixture(scope="module")
def state():
    """Weights of the shapes of Inception, from numpy's generator."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in inception.Inception().state_dict().items()}
    rng, drawn = np.random.default_rng(0), {}
    for key in sorted(k for k in shapes if not k.endswith("num_batches_tracked")):
        value = rng.random(shapes[key], dtype=np.float32)
        if value.ndim > 1:
            value = (value - 0.5) * np.float32((24 / value[0].size) ** 0.5)
        else:
            value += np.float32(0.5 if key.endswith(("bn.weight", "running_var")) else -0.5)
        drawn[key] = torch.from_numpy(value)
    return drawn


def test_inception_is_that_of_the_published_file(state):
    # torchvision's 27161264 parameters, less its auxiliary head of 3326696, with 8 classes more
    number = sum(v.numel() for k, v in state.items() if "running" not in k)
    assert number == 27161264 - 3326696 + 8 * 2049
    assert state["fc.weight"].shape == (1008, 2048)
    assert state["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    assert state["Mixed_5b.branch1x1.conv.weight"].shape == (64, 192, 1, 1)
    assert state["Mixed_6c.branch7x7dbl_5.bn.running_var"].shape == (192,)
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)


def test_inception_gives_torch_fidelitys_numbers(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    features = load_features(inception_weights=f"{tmp_path}/weights.pth", device="cpu")
    found = features.extract(open_images(images(2, 32, 1)), batch_size=2)
    pool, spatial = found["pool"], found["spatial"]
    assert pool.shape == (2, 2048) and spatial.shape == (2, 17 * 17 * 7)
    logits = pool @ features.network.fc.weight.T
    for values, expected in ((pool, POOL), (spatial, SPATIAL), (logits, LOGITS)):
        assert values[1, :: values.shape[1] // 7].numpy() == pytest.approx(expected, rel=1e-4)


def test_resize_is_tensorflow_1s():
    def resized(row, side):
        image = torch.tensor(row).expand(1, 1, len(row), -1)
        wide = inception.resize_tf1(image, side)
        assert torch.allclose(inception.resize_tf1(image.mT, side), wide.mT, atol=1e-6)
        return wide[0, 0, 0].tolist()

    # pixel i is read at i * in/out: 0, 1/2, 1 and 3/2, the last beyond the edge
    assert resized([0.0, 8.0], 4) == [0, 4, 8, 8]
    assert resized([0.0, 8.0, 4.0], 2) == [0, 6]
    assert resized([1.0, 2.0, 3.0, 5.0], 2) == [1, 3]
    assert resized([1.0, 2.0, 5.0], 3) == [1, 2, 5]


def test_other_files_than_inceptions_are_refused(state, tmp_path):
    path = f"{tmp_path}/weights.pth"
    with pytest.raises(ValueError, match="no Inception weights at .*https://github.com"):
        load_features("inception", path)
    Path(path).write_bytes(b"<html>")
    with pytest.raises(
        ValueError, match="cannot be read as weights; get .* from https://github.com"
    ):
        load_features("inception", path)
    small = {key: value for key, value in state.items() if value.numel() < 100}
    for wrong, why in (
        (small, "lacks [0-9]+ keys .*Conv2d_1a_3x3.conv.weight"),
        ({**state, "AuxLogits.fc.bias": torch.zeros(8)}, r"1 others .*AuxLogits"),
        ({**state, "fc.weight": torch.zeros(1000, 2048)}, r"1 others .*fc.weight"),
        ([1, 2], "cannot be read"),
    ):
        torch.save(wrong, path)
        with pytest.raises(ValueError, match=why):
            load_features("inception", path)
