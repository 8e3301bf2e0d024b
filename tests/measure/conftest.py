"""Two small networks for studies of flatness, one to sample from, and a quiet log."""

import importlib
import sys

import numpy as np
import pytest
import torch
from flatness_studies import DIFFUSION, MODEL
from launch import ROOT
from rounded_sampling import SAMPLING, TINY, parsed
from small import save_run

from flatdiff.flags import config
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


@pytest.fixture(scope="module")
def image_sample():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("image_sample")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images (squares, light on dark), and a network that has learned a little."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    corner = torch.randint(0, 5, (200, 2))
    inside = [
        (torch.arange(8) >= corner[:, i, None]) & (torch.arange(8) < corner[:, i, None] + 4)
        for i in range(2)
    ]
    squares = (inside[0][:, :, None] & inside[1][:, None, :])[:, None].expand(-1, 3, -1, -1)
    np.savez(folder / "squares.npz", arr_0=(squares * 255).byte().permute(0, 2, 3, 1).numpy())
    flags = parsed(TINY)
    model, diffusion = networks.build(flags.model, flags.diffusion)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        x = squares[torch.randint(0, 200, (16,))].float() * 2 - 1
        loss = diffusion.training_losses(model, x, torch.randint(0, 100, (16,)))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_run(folder, model, "model000060.pt", **config.to_dict(flags))
    return folder


@pytest.fixture
def sample(image_sample, trained, tmp_path):
    """Run image_sample; (images as numbers in 0..255, the log, the folder)."""

    def draw(*argv, name="out"):
        given = [str(a) for a in argv]
        if "--model_path" not in given:
            given += ["--model_path", str(trained / "model000060.pt")]
        folder = tmp_path / name
        with logger.scoped_configure(dir=str(folder), format_strs=[]):
            image_sample.sample(parsed([*SAMPLING, "--log_dir", str(folder), *given]))
        (npz,) = folder.glob("*.npz")
        with np.load(npz) as file:
            images = file["arr_0"].astype(float)
        return images, (folder / "log.txt").read_text(), npz

    return draw
