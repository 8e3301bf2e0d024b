"""What training logs of its losses: means over images, and over quarters of the timesteps."""

import pytest
import torch
from training import train

from flatdiff.world import logger


def test_logged_means_and_quartiles(monkeypatch):
    run = train(3)
    t = torch.cat([h["t"] for h in run.history])
    loss = torch.cat([h["loss"] for h in run.history])
    logged = {}
    monkeypatch.setattr(
        logger, "dumpkvs", lambda reduce: logged.update(logger.getkvs()) or {"loss": 0.0}
    )
    seen = {}
    monkeypatch.setattr(logger, "logkv_mean", lambda k, v, n: seen.update({k: (float(v), int(n))}))
    run.log_step(None)
    assert seen["loss"] == (pytest.approx(loss.mean().item()), 12)
    for q in range(4):
        part = loss[(t >= 10 * q) & (t < 10 * (q + 1))]
        assert seen[f"loss_q{q}"][1] == len(part)
        if len(part):
            assert seen[f"loss_q{q}"][0] == pytest.approx(part.mean().item())
