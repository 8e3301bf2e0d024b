"""The house: every arrow points strictly down, wing by wing, and inside a wing there is no circle.

A new file needs no line here; a new wing needs its floor.
"""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "flatdiff"
FLOORS = [
    "rng bars store",
    "kernels judge",
    "weights chain nets world report",
    "data quantization flags",
    "models exchange",
    "train measure",
    "study",
]
FLOOR = {wing: i for i, wings in enumerate(FLOORS) for wing in wings.split()}
FRONTS = {  # guided-diffusion's names
    *"dist_util fp16_util gaussian_diffusion image_datasets logger losses nn resample".split(),
    *"respace script_util train_util unet".split(),
}
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.stem not in ("__init__", "__main__")
}
ROOMS = [name for name in FILES if name not in FRONTS]


def imports(name):
    """What a module imports: those of the package by their names in it, others in full."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = name.split(".")[: -node.level] + (node.module or "").split(".")
            for alias in node.names:
                whole = ".".join(filter(None, [*base, alias.name]))
                ours.add(whole if whole in FILES else ".".join(filter(None, base)))
        elif isinstance(node, ast.ImportFrom):
            others |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return ours - {""}, others  # without __version__


def wing(name):
    return name.split(".")[0]


def test_every_module_stands_in_a_wing_or_is_a_front():
    assert {wing(name) for name in ROOMS} == FLOOR.keys()
    assert set(FILES) >= FRONTS


@pytest.mark.parametrize("name", ROOMS)
def test_arrows_point_strictly_down(name):
    ours, others = imports(name)
    assert ours <= set(ROOMS), "a front is imported by no room"
    below = {other for other in ours if wing(other) != wing(name)}
    assert not [o for o in below if FLOOR[wing(o)] >= FLOOR[wing(name)]]
    assert not [o for o in others if o.split(".")[0] in ("flatdiff", "torchvision")]
    if wing(name) != "world":
        assert not [o for o in others if o.startswith(("torch.distributed", "mpi4py"))]
    if wing(name) not in ("world", "kernels"):
        assert "parents" not in FILES[name].read_text(), "no path leads out of the package"
    if wing(name) == "judge":
        assert {wing(o) for o in ours} <= {"judge"}
    if wing(name) in ("weights", "chain", "nets"):
        known = set(sys.stdlib_module_names) - {"os", "pathlib", "logging", "argparse"}
        assert {o.split(".")[0] for o in others} <= known | {"torch", "numpy", "scipy", "tqdm"}


@pytest.mark.parametrize("floor", FLOOR)
def test_no_circle_in_a_wing(floor):
    inside = {n: {o for o in imports(n)[0] if wing(o) == floor} for n in ROOMS if wing(n) == floor}
    assert list(graphlib.TopologicalSorter(inside).static_order())


def test_every_room_has_its_test_file():
    tests = {str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py")}
    assert {"/".join([*r.split(".")[:-1], f"test_{r.split('.')[-1]}.py"]) for r in ROOMS} <= tests


def test_no_file_is_longer_than_330_lines():
    files = [*FILES.values(), *TESTS.rglob("*.py")]
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 330]


@pytest.mark.parametrize("name", FILES)
def test_functions_and_calls_stay_short(name):
    """A function of 45 lines without its docstring, a call of 15 arguments, but guided-diffusion's
    own."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.FunctionDef):
            told = (ast.get_docstring(node, clean=False) or "").count("\n")
            assert node.end_lineno - node.lineno - told < 45, node.name
        if isinstance(node, ast.Call) and name != "models.factories":
            assert len(node.args) + len(node.keywords) <= 15, node.lineno
