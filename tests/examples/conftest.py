"""A folder that has what README and docs/api.md name."""

import sys

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from foreign import unet
from small import groups, images, network, save_images, save_run

PROJECT = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, t):
        return self.layer(x) * t[:, None]

torch.manual_seed(0)
flow_net, edm_net, my_net = Net().eval(), Net().eval(), nn.Linear(4, 3).eval()
images, my_inputs, labels = torch.randn(40, 4), torch.randn(40, 4), torch.arange(40) % 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory: two runs of a demo, a pipeline, images, and a project."""
    model, diffusion = groups()
    data = {"data_dir": str(save_images(tmp_path / "digits", images(8)))}
    for name in ("adam", "adam-sam"):
        run = tmp_path / "runs/demo" / name
        about = {"model": model, "diffusion": diffusion, "data": data}
        save_run(run, network()[0], "ema_0.99_001400.pt", **about)
    DDPMPipeline(unet(in_channels=1, out_channels=1), DDPMScheduler()).save_pretrained(
        tmp_path / "my-pipeline"
    )
    torch.save(torch.randn(12, 1, 8, 8), tmp_path / "images.pt")
    (tmp_path / "my_project.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_project", None)
