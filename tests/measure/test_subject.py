"""A network under study: what is kept of its images, its timesteps, and half precision."""

import json

import pytest
import torch
from flatness_studies import arguments, parse, study
from flatness_studies import subject as subject_of

from flatdiff.measure.subject import packed, unpacked


def test_moved_weights_come_back_and_their_distance_is_that_of_the_move(folder, tmp_path):
    flags = parse(arguments(folder, tmp_path))
    subject = subject_of(f"{folder}/runs/a/model000007.pt", flags)
    before = [w.clone() for w in subject.weights]
    found = subject.at(lambda weights: torch._foreach_mul_(weights, 1.5), each=True)
    assert all(map(torch.equal, subject.weights, before))
    length = torch.cat([w.detach().flatten() for w in before]).double().norm().item()
    assert found["distance"] == pytest.approx(0.5 * length, rel=1e-4)
    rises = subject.means(unpacked(found["rises"]))
    losses = torch.tensor(found["losses"], dtype=torch.float64)
    torch.testing.assert_close(rises, losses - subject.at_w, rtol=1e-4, atol=1e-6)


def test_half_precision_sees_the_moved_weights(folder, tmp_path):
    """Autocast keeps cast copies of weights, and must not keep those of other weights."""
    argv = arguments(folder, tmp_path, "--sigma", "0.05", "--model_path", f"{folder}/runs/a/*")
    rises = []
    for dtype in ("fp32", "bf16"):
        (model,) = study([*argv, "--dtype", dtype])["models"]
        mse = torch.tensor(model["curve"][0]["losses"]["mse"])[:, 0]
        rises.append(mse - model["at_w"]["mse"]["losses"][0])
    assert not torch.equal(*rises) and rises[0].abs().min() > 0
    torch.testing.assert_close(rises[1], rises[0], rtol=0.1, atol=0)


def test_a_range_beyond_the_chain_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="--t_range 41.*has 40 timesteps"):
        study(arguments(folder, tmp_path, "--t_range", "41"))


def test_values_of_images_are_kept_as_text():
    values = torch.randn(3, 5, dtype=torch.float64) * 1e-9
    kept = json.loads(json.dumps(packed(values)))
    assert torch.equal(unpacked(kept), values.float().double())
    assert len(kept[1]) == 4 * 3 * 5 * 4 / 3
