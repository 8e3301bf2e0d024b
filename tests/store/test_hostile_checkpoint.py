"""Checkpoints that claim more than they have, and configs that no flags could have written."""

import json
import struct

import pytest
import torch

from flatdiff.flags import config
from flatdiff.store import checkpoint

ONE = torch.ones(1)


@pytest.mark.parametrize("tensor", [ONE.expand(10**12), ONE.to_sparse(), ONE.expand(2)])
def test_a_tensor_that_claims_more_than_there_is_is_no_weight(tensor, tmp_path):
    path = str(tmp_path / "model000000.pt")
    torch.save({"a": torch.ones(2), "b": [tensor]}, path)
    with pytest.raises(
        ValueError, match="damaged.*of which not all numbers are there|expected a dense tensor"
    ):
        checkpoint.load(path)
    whole = torch.arange(6.0).view(2, 3)
    torch.save({"a": whole.T, "b": whole[1], "c": torch.empty(0), "d": torch.tensor(1)}, path)
    assert torch.equal(checkpoint.load(path)["a"], whole.T)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**9])
def test_a_header_that_claims_endless_bytes_is_not_read(length, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    for read in (checkpoint.about, checkpoint.load):
        with pytest.raises(ValueError, match="a.safetensors"):
            read(str(path))


@pytest.mark.parametrize("name", ["model", "run", "train"])
@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_group_that_is_no_group_is_named(name, value, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"diffusion": {}, name: value}))
    with pytest.raises(ValueError, match=f"config.json: its {name} is .*; expected flags"):
        checkpoint.config_in(str(tmp_path))


@pytest.mark.parametrize(
    "name, value",
    [
        *(("predict_xstart", "False"), ("diffusion_steps", 8.5), ("diffusion_steps", "8")),
        *(("diffusion_steps", True), ("diffusion_steps", 10**9), ("timestep_respacing", 100)),
        *(("eps_scaler", float("nan")), ("noise_schedule", "evil"), ("objective", "os:system")),
    ],
)
def test_a_config_is_read_as_flags_are(name, value):
    good = {"predict_xstart": True, "diffusion_steps": 8, "eps_scaler": 1, "timestep_respacing": ""}
    read = config.checked(config.DiffusionFlags, good, "config.json")
    assert {k: read[k] for k in good} == good
    with pytest.raises(ValueError, match=f"{name} is .* in config.json, expected"):
        config.checked(config.DiffusionFlags, good | {name: value}, "config.json")
