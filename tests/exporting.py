"""scripts/export_diffusers.py, run in the test's own process."""

import importlib.util
import sys
from pathlib import Path

from small import words

SCRIPT = Path(__file__).parents[1] / "scripts" / "export_diffusers.py"
SPEC = importlib.util.spec_from_file_location("export_diffusers", SCRIPT)
export_diffusers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(export_diffusers)


def run(monkeypatch, **flags):
    """The script with these flags."""
    monkeypatch.setattr(sys, "argv", ["export_diffusers.py", *words(**flags)])
    export_diffusers.main()
