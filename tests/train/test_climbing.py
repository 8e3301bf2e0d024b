"""Climbs over ranks against autograd written out, and flags that do not go together."""

import os

import pytest
import torch
from launch import mpirun, succeed
from training import BATCH, SIZE, data, loop, network

from flatdiff.chain.resample import create_named_schedule_sampler, draw
from flatdiff.nets.vit import ViT
from flatdiff.rng import CLIMB, TRAIN, generator, seed_of
from flatdiff.train.climbing import mean_over_ranks
from flatdiff.train.train_util import TrainLoop
from flatdiff.weights import perturb
from flatdiff.world import logger

RANKS = """
import sys, torch
from training import data, loop
from flatdiff.world import dist_util, logger

with dist_util.session():
    logger.configure(sys.argv[1], format_strs=[])
    rank = dist_util.rank()
    for text in sys.argv[2:]:
        optimizer, _, sync = text.partition("/")
        rho = {} if "loss" in optimizer else {"rho": 0.5}
        run = loop(optimizer=optimizer, sam_sync=bool(sync), curvature_interval=1, lr=1e-2, **rho)
        batch = torch.cat([next(data(0))[0], next(data(1))[0]])[4 * rank : 4 * rank + 4]
        run.run_step(batch, {})
        found = {"grads": [w.grad for w in run.weights], "memory": run.memory}
        found["shown"] = {k: float(v) for k, v in logger.getkvs().items() if "crit" in k}
        torch.save(found, f"{sys.argv[1]}/{text.replace('/', '_')}.{rank}.pt")
        logger.configure(sys.argv[1], format_strs=[])
"""
KINDS = ["adam", "adam-sam-loss rise=0.05", "adam-fsam decay=0.8", "adam-random", "adam-sam-down"]
CASES = KINDS + [f"{kind}/sync" for kind in KINDS[1:]]


def written_out(text):
    """(the mean over ranks of each one's gradient where it climbed to, their mean at w)."""
    model, diffusion = network()
    joined = torch.cat([next(data(0))[0], next(data(1))[0]])
    sampler = create_named_schedule_sampler("uniform", diffusion)
    one = draw(sampler, joined, {}, generator(3, TRAIN, 0))
    weights = list(model.parameters())
    kind, _, sync = text.partition("/")

    def gradient(part):
        return torch.autograd.grad(part.losses(diffusion, model)["loss"].mean(), weights)

    parts = one.split(BATCH)
    at_w = [gradient(part) for part in parts]
    mean = [(a + b) / 2 for a, b in zip(*at_w)]
    found = []
    for rank, part in enumerate(parts):
        d = mean if sync else at_w[rank]
        if "fsam" in kind:
            d = [g - 0.2 * m for g, m in zip(d, mean)]
        if "random" in kind:
            d = list(perturb.noise(weights, seed_of(3, CLIMB, 0, 0 if sync else rank), 0))
        norm = torch.cat([x.flatten() for x in d]).norm()
        rho = {"adam": 0.0, "adam-sam-down": -0.5}.get(kind, 0.05 / norm if "loss" in kind else 0.5)
        with perturb.at(weights, perturb.along(d, float(rho / norm))):
            found.append(gradient(part))
    return [(a + b) / 2 for a, b in zip(*found)], mean


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "ranks.py").write_text(RANKS)
    here = os.path.dirname(os.path.dirname(__file__))
    path = {"PYTHONPATH": f"{os.path.dirname(here)}:{here}"}
    succeed(mpirun(2, folder / "ranks.py", folder, *CASES, **path))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("text", CASES)
def test_each_rank_climbs_on_its_own_gradient_or_on_the_mean(ranks, text):
    """Then all follow the mean of what they found; a mean gradient is that of all ranks."""
    first, second = (torch.load(ranks / f"{text.replace('/', '_')}.{rank}.pt") for rank in range(2))
    expected, mean = written_out(text)
    size = torch.cat([x.flatten() for x in expected]).norm()
    for a, b, x in zip(first["grads"], second["grads"], expected):
        assert torch.equal(a, b)
        assert (a - x).norm() < 1e-3 * size
    for a, b, x in zip(*(each["memory"].get("mean", []) for each in (first, second)), mean):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, 0.2 * x, rtol=1e-3, atol=1e-5)
    assert bool(first["memory"]) == ("fsam" in text)
    assert first["shown"] == second["shown"] and len(first["shown"]) == 2


def test_one_rank_has_no_mean_to_take():
    tensors = [torch.ones(2), torch.zeros(3)]
    assert mean_over_ranks(tensors) is tensors


def test_the_length_of_a_climb_by_loss_is_logged(quiet):
    """It is rise over the length of the step's own gradient."""
    run, plain = (loop(optimizer=o) for o in ("adam-sam-loss rise=0.05", "adam"))
    for each in (run, plain):
        each.run_step(*next(data(0)))
    norm = float(plain.history[0]["grad_norm"])
    assert logger.getkvs()["sam_length"] == pytest.approx(0.05 / norm, rel=1e-4)


def test_a_radius_of_its_own_and_rho_are_refused(quiet):
    with pytest.raises(ValueError, match="--rho 0.2: --optimizer adam-sam-loss finds its radius"):
        loop(optimizer="adam-sam-loss", rho=0.2)
    with pytest.raises(ValueError, match="rise 0.0: the rise of the loss"):
        loop(optimizer="adam-sam-loss rise=0", end_step=1).run_loop()


def test_a_gradient_without_a_memory_leaves_the_saved_one(quiet):
    """A run that goes on with Adam after Friendly-SAM saves no mean gradient any more."""
    loop(optimizer="adam-fsam", end_step=1).run_loop()
    saved = torch.load(quiet / "state000001.pt")["gradient"]["mean"]
    run = loop(resume_checkpoint=str(quiet / "model000001.pt"), optimizer="adam-fsam")
    assert all(torch.equal(saved[n], m) for n, m in zip(run.names, run.memory["mean"]))
    assert all(m.stride() == w.stride() for m, w in zip(run.memory["mean"], run.weights))
    assert not loop(resume_checkpoint=str(quiet / "model000001.pt")).memory


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("share", "microbatch", "dropout", "told"),
    [(1.0, 3, 0.5, 4), (0.5, 2, 0.5, 2), (0.5, -1, 0.0, 2), (0.5, -1, 0.5, 0), (0.5, 3, 0.5, 0)],
)
def test_a_sharpness_is_of_the_same_dropout_masks_or_not_told(share, microbatch, dropout, told):
    """The nearer the ridge, the smaller the rise of the loss."""
    torch.manual_seed(0)
    model = ViT(SIZE, 3, 32, 6, patch_size=4, num_layers=1, num_heads=2, dropout=dropout)
    _, diffusion = network()
    for w in model.parameters():
        torch.nn.init.normal_(w, std=0.1)
    how = {"optimizer": "adam-sam", "rho": 1e-5, "sam_share": share, "microbatch": microbatch}
    run = TrainLoop(
        model=model, diffusion=diffusion, data=data, batch_size=BATCH, ema_rate="", **how
    )
    run.run_step(*next(run.data))
    rises = [x for rise in run.rises for x in rise.tolist()]
    assert len(rises) == told and rises == pytest.approx([0] * told, abs=1e-3)
