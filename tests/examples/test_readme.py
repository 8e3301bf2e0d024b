"""The scripts of any family are run as they stand, in a folder that has what they name."""

import re

import pytest
from launch import ROOT

README, PAGE = ((ROOT / name).read_text() for name in ("README.md", "docs/networks.md"))
SCRIPTS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
SAYS = {  # of a script that begins with this comment, a row that it prints
    "guided-diffusion": r"LPF +0.001 +mse( +\S+){4}",
    "diffusers": r"HESSIAN +trace +mse +\S+ +\S+",
    "Flow matching": r"MC +0.1 +x_mse +log-SNR 4..8",
    "EDM": r"LPF +0.001 +x_mse",
    "Any network": r"HESSIAN +1 +loss +\S+ +\S+",
}


def test_there_are_five_families_of_at_most_ten_lines():
    assert len(SCRIPTS) == len(SAYS)
    assert all(len(script.splitlines()) <= 10 for script in SCRIPTS)
    assert README.partition("## Your own network")[0].count("\n") < 40
    assert re.findall(r"```python\n(.*?)```", README, re.S) == SCRIPTS[-1:]


@pytest.mark.slow
@pytest.mark.parametrize("family", SAYS)
def test_a_script_runs_as_it_stands(folder, capsys, family):
    (script,) = (s for s in SCRIPTS if family in s.splitlines()[0])
    exec(compile(script, family, "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert re.search(SAYS[family], said), said
    assert "nan" not in said
