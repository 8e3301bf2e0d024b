"""The check sum of packed tensors: no bit changes unnoticed, and older files have none."""

import pytest
import safetensors.torch
import torch

from flatdiff.store import checkpoint


def test_a_flipped_bit_of_packed_tensors_is_noticed_wherever_it_is(tmp_path):
    """One of each byte, in the header too."""
    path = tmp_path / "a.safetensors"
    tensors = {"w": torch.randn(20), "w.codes": torch.arange(9, dtype=torch.uint8)}
    checkpoint.save_tensors(tensors, str(path), {"diffusion": {}, "quant": {"quant": 4}})
    assert checkpoint.load(str(path)).keys() == tensors.keys()
    assert checkpoint.about(str(path))["quant"] == {"quant": 4}
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            checkpoint.about(str(path))
            checkpoint.load(str(path))


def test_packed_tensors_of_before_there_were_sums_load(tmp_path):
    path, tensors = str(tmp_path / "a.safetensors"), {"w": torch.zeros(2)}
    safetensors.torch.save_file(tensors, path, {"flatdiff": '{"diffusion": {"a": 1}}'})
    assert checkpoint.about(path) == {"diffusion": {"a": 1}}
    assert torch.equal(checkpoint.load(path)["w"], tensors["w"])
