"""The network of digits: what it tells apart, kept, and the same each time."""

from pathlib import Path

import pytest
import torch
from small import images

from flatdiff.judge import digit_features
from flatdiff.judge.features import load_features


def as_tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


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
    pictures, digits, is_test = digit_features._digits()
    assert [int(is_test[digits == d].sum()) for d in range(10)] == [
        int((digits == d).sum()) // 5 for d in range(10)
    ]
    assert pictures.shape == (1797, 3, 8, 8) and pictures.max() == 255
    zeros = torch.nonzero(digits == 0).flatten()
    assert is_test[zeros[:10]].tolist() == ([False] * 4 + [True]) * 2


def test_digits_of_other_sizes_are_seen_at_8x8():
    network = digit_features.DigitFeatures().eval()
    small = as_tensor(images(3, 8, 1))
    large = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert network(small)["pool"].shape == (3, 32)
    assert torch.allclose(network(small)["pool"], network(large)["pool"], atol=0.1)
    grey = small.float().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.allclose(network(small)["pool"], network(grey)["pool"], atol=1e-5)
