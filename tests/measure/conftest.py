"""Two small networks for studies of flatness, and a quiet log."""

import numpy as np
import pytest
import torch
from flatness_studies import DIFFUSION, MODEL

from flatdiff.models import networks
from flatdiff.store import checkpoint
from flatdiff.world import logger


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def quiet():
    yield
    logger.reset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """runs/a and runs/b with a network each, and 16 images."""
    folder = tmp_path_factory.mktemp("study")
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", arr_0=images)
    many = np.random.default_rng(1).integers(0, 256, (2000, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "many.npz", arr_0=many)
    for seed, name in enumerate(("a/model000007.pt", "b/ema_0.9_000007.pt")):
        torch.manual_seed(seed)
        model, _ = networks.build(MODEL, DIFFUSION)
        with torch.no_grad():  # small outputs, so that the loss curves upwards
            for w in model.parameters():
                w.add_(0.03 * torch.randn_like(w))
        path = folder / "runs" / name
        path.parent.mkdir(parents=True)
        checkpoint.save(model.state_dict(), str(path))
        groups = {"model": vars(MODEL), "diffusion": vars(DIFFUSION)}
        checkpoint.save_json(groups, str(path.parent / "config.json"))
    return folder
