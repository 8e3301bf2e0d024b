"""Feature networks by name: where each is loaded, and which distance it gives."""

import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flatdiff.judge import names
from flatdiff.judge.evaluate import evaluate
from flatdiff.judge.features import load_features


@pytest.mark.parametrize("name", names.FEATURES)
def test_each_name_leads_to_a_function_and_says_its_distance(name):
    where, told = names.FEATURES[name]
    module, _, function = where.partition(":")
    assert callable(getattr(importlib.import_module(f"flatdiff.judge.{module}"), function))
    assert told.startswith("FID" if name == "inception" else f"FD-{name}")


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


@pytest.mark.slow
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
