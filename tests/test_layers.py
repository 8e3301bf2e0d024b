"""Arrows point down: maths knows no files, weights code knows tensors only."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flatdiff"
LEVELS = [
    """losses noising respace gaussian_diffusion samplers resample nn unet unet_blocks
    unet_encoder unet_trunk kernels perturb averaging rng sizes learning_rate""",
    """sam rounding restore probe flatness hessian surface quantize packing int8 exposure_bias
    diffusers_config diffusers_format""",
    """disk finite keys classes pictures image_datasets image_files dist_util shared_sum
    allocator compiler launcher lifeline logger log_outputs checkpoint flags config config_use
    presets""",
    """fp16_util factories script_util train_hooks train_log train_util train_state rounding_log
    generate run_util report finished model_paths subject flatness_run flatness_report
    flatness_pictures quantize_run exposure_run exposure_report classifier_util super_res nll
    loss_scale evaluation study study_axes study_jobs study_run study_board study_rows
    study_tables study_pictures study_page study_report study_words claims significance
    submission""",
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names.split()}
FILES = sorted(p for p in PACKAGE.glob("*.py") if p.stem != "__init__")
NETWORKS = {"nn", "kernels", "unet", "unet_blocks", "unet_encoder", "unet_trunk"}
CHAINS = {"losses", "noising", "respace", "gaussian_diffusion", "samplers", "resample"}
WEIGHTS = {"perturb", "averaging", "sam", "rounding"}


def imports(path):
    """Modules that a file imports: those of the package by their bare names, others in full."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "") == "flatdiff"):
            module = node.module if node.level else None
            ours |= {module} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
    return ours, others


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_arrows_point_down(path):
    ours, others = imports(path)
    name = path.stem
    assert LEVEL.keys() >= ours | {name}
    assert all(LEVEL[other] <= LEVEL[name] for other in ours)
    if LEVEL[name] < 2:
        known = set(sys.stdlib_module_names) - {"os", "pathlib", "logging", "argparse"}
        assert {o.split(".")[0] for o in others} <= known | {"torch", "numpy", "scipy", "tqdm"}
    if name != "dist_util":
        assert not [o for o in others if o.startswith(("torch.distributed", "mpi4py"))]
    if LEVEL[name] < 3 and name != "config":
        assert "config" not in ours
    if name in NETWORKS | CHAINS:
        strangers = CHAINS if name in NETWORKS else NETWORKS - {"nn"}
        assert not ours & strangers
    if name in WEIGHTS:
        assert ours <= WEIGHTS | {"rng"}


def test_evaluations_share_with_the_package_what_an_image_is_alone():
    for path in (PACKAGE.parent / "evaluations").glob("*.py"):
        assert imports(path)[0] <= {"pictures"}, path


def test_nothing_needs_torchvision():
    every = [*FILES, *(PACKAGE.parent / "scripts").glob("*.py")]
    assert not [p for p in every for o in imports(p)[1] if o.split(".")[0] == "torchvision"]
