"""scripts/export_diffusers.py, run in the test's own process."""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from small import words

from flatdiff.flags import config
from flatdiff.models import networks
from flatdiff.store import checkpoint

SCRIPT = Path(__file__).parents[1] / "scripts" / "export_diffusers.py"
SPEC = importlib.util.spec_from_file_location("export_diffusers", SCRIPT)
export_diffusers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(export_diffusers)


def run(monkeypatch, **flags):
    """The script with these flags."""
    monkeypatch.setattr(sys, "argv", ["export_diffusers.py", *words(**flags)])
    export_diffusers.main()


def assert_is_the_same(folder, model, inputs, output):
    """What came back into the folder has the model's weights to the bit, and a config.json by which
    a network is made that gives the output."""
    back = checkpoint.load(f"{folder}/model000000.pt")
    assert list(back) == list(model.state_dict())
    assert all(torch.equal(back[k], v) for k, v in model.state_dict().items())
    said = json.loads((folder / "config.json").read_text())
    rebuilt, _ = networks.build(
        config.ModelFlags(**said["model"]), config.DiffusionFlags(**said["diffusion"])
    )
    rebuilt.load_state_dict(back)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(*inputs), output)
