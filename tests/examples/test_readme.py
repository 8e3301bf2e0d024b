"""README's scripts of any family are run as they stand, in a folder that has what they name."""

import re
import sys

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from foreign import unet
from launch import ROOT
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
SECTION = (ROOT / "README.md").read_text().partition("## Any network\n")[2].partition("\n## ")[0]
SCRIPTS = re.findall(r"```python\n(.*?)```", SECTION, re.S)
SAYS = {  # of a script that begins with this comment, a row that it prints
    "guided-diffusion": r"LPF +0.001 +mse( +\S+){4}",
    "diffusers": r"UNet2DModel +trace +\S+ +\S+",
    "Flow matching": r"MC +0.1 +x_mse +log-SNR 4..8",
    "EDM": r"LPF +0.001 +x_mse",
    "Any network": r"Linear +eigenvalue 1 +\S+ +\S+",
}


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


def test_there_are_five_families_of_at_most_ten_lines():
    assert len(SCRIPTS) == len(SAYS)
    assert all(len(script.splitlines()) <= 10 for script in SCRIPTS)
    assert (ROOT / "README.md").read_text().partition("## Any network")[0].count("\n") < 40


@pytest.mark.slow
@pytest.mark.parametrize("family", SAYS)
def test_a_script_runs_as_it_stands(folder, capsys, family):
    (script,) = (s for s in SCRIPTS if family in s.splitlines()[0])
    exec(compile(script, family, "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert re.search(SAYS[family], said), said
    assert "nan" not in said
