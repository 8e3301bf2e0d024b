"""The map: of quadratic losses, whose rise and curvature are known, and against LPF."""

import math

import networks
import numpy as np
import pytest
import quadratics
import torch
from flatness_studies import arguments, measure, parse
from flatness_studies import subject as subject_of
from scipy import stats
from torch import nn

import flatdiff
from flatdiff.measure import blocks, curve
from flatdiff.measure.blocks import MAP
from flatdiff.nets.vit import ViT
from flatdiff.weights import perturb

SIGMA = 0.1


def found(of, **knobs):
    map_ = MAP(**{"sigma": str(SIGMA), "noise_scale": "absolute", "num_draws": 8} | knobs)
    return map_, map_.result(of, [task() for task in map_.tasks(of).values()])


def test_blocks_are_children_and_those_of_lists():
    model = networks.tiny()
    weights = list(model.parameters())
    names = list(blocks.named(model, weights))
    assert names[:3] == ["all weights", "time_embed", "input_blocks.0"]
    assert names[-1] == "out" and {"middle_block", "output_blocks.0"} < {*names}
    places = [i for name, of in blocks.named(model, weights).items() if name != "all weights"
              for i in of]  # fmt: skip
    assert sorted(places) == list(range(len(weights)))
    vit = ViT(8, 3, 32, 3, num_layers=2, patch_size=4, num_heads=2)
    assert {"patch_embed", "blocks.0", "blocks.1", "out"} < {
        *blocks.named(vit, [*vit.parameters()])
    }
    own = nn.Linear(2, 2)
    assert list(blocks.named(own, [own.weight])) == ["all weights", "own"]
    with pytest.raises(ValueError, match="none of the weights are in it"):
        blocks.named(own, [nn.Parameter(torch.zeros(2))])


def test_rise_and_curvature_of_a_quadratic_are_those_of_its_hessian():
    """Of each layer mean z.x x'.z and half of sigma^2 times that, of LPF's own draws z; of the
    whole, where layers do not meet, their sum."""
    of = quadratics.subject(layers=3)
    _, told = found(of, pairs=4)
    assert [b["block"] for b in told["blocks"]] == [
        "all weights",
        *(f"layers.{i}" for i in range(3)),
    ]
    noise = [list(perturb.noise(of.weights, of.seed, k)) for k in range(4)]
    total = np.zeros(2)
    for i, block in enumerate(told["blocks"][1:]):
        x = of.draws[:, i].numpy()
        hessian = x.T @ x / len(x)
        z = [draw[i].double().numpy().ravel() for draw in noise]
        exact = [v @ hessian @ v for v in z]
        values = block["curvature"]["value"][0], block["rise"]["value"][0]
        assert values == pytest.approx((np.mean(exact), SIGMA**2 / 2 * np.mean(exact)), rel=1e-5)
        assert block["curvature"]["error"][0] == pytest.approx(np.std(exact, ddof=1) / 2, rel=1e-4)
        each = np.mean([(x @ v) ** 2 for v in z], axis=0)
        assert block["curvature"]["error_images"][0] == pytest.approx(
            float(of.errors_of(torch.from_numpy(each)[None])[0, 0]), rel=1e-4
        )
        assert block["weights"] == 5
        total += values
    whole = told["blocks"][0]
    assert (whole["curvature"]["value"][0], whole["rise"]["value"][0]) == pytest.approx(
        tuple(total), rel=1e-5
    )


def test_the_curvature_in_units_of_filters_is_the_trace_by_a_filters_size():
    """A filter's move is uniform on the sphere of its own length, so that z z' is ||w||^2 / n."""
    of = quadratics.subject(layers=3)
    _, told = found(of, pairs=300, noise_scale="filter")
    for i, block in enumerate(told["blocks"][1:]):
        x, w = of.draws[:, i], of.weights[i].detach()
        exact = float(w.square().sum() * x.square().sum() / len(x) / w.numel())
        value, error = (block["curvature"][k][0] for k in ("value", "error"))
        assert abs(value - exact) < 4 * error < 0.3 * exact


def test_errors_cover_over_twenty_seeds():
    """Student's interval of 95 % has the trace of the Hessian of a layer in it."""
    inside = 0
    for seed in range(20):
        of = quadratics.subject().anew(seed)
        _, told = found(of, pairs=4)
        x = of.draws[:, 1].numpy()
        trace, of_layer = (x**2).sum() / len(x), told["blocks"][2]["curvature"]
        half = stats.t.ppf(0.975, 3) * of_layer["error"][0]
        inside += abs(of_layer["value"][0] - trace) < half
    assert inside >= 17  # 19 expected


@pytest.fixture(scope="module")
def network(folder):
    flags = parse(arguments(folder, folder / "map"))
    return subject_of(f"{folder}/runs/a/model000007.pt", flags)


@pytest.mark.parametrize("scale", ["absolute", "filter", "weight"])
def test_a_block_has_its_part_of_lpfs_moves(network, scale):
    """All of them together are LPF, to the bit; one is what its part of the noise does by hand, in
    every part of log-SNR."""
    sigma = 0.02
    _, told = found(network, sigma=str(sigma), noise_scale=scale, pairs=2)
    lpf = curve.LPF(sigma=str(sigma), noise_scale=scale, num_draws=4)
    results = [task() for task in lpf.tasks(network).values()]
    row = network.terms.index("x_mse")
    moved = torch.tensor([r["losses"][row] for r in results], dtype=torch.float64)
    expected = moved.mean(0) - network.at_w[row]
    assert told["of"] == "x_mse" and len(told["blocks"][0]["rise"]["value"]) == 5
    np.testing.assert_allclose(told["blocks"][0]["rise"]["value"], expected, rtol=1e-4, atol=1e-9)
    out = {name: w for name, w in network.model.named_parameters() if name.startswith("out.")}
    kept = {name: w.detach().clone() for name, w in network.model.named_parameters()}
    rises = []
    for draw in range(2):
        for sign in (1, -1):
            of_weights = perturb.noise(network.weights, 0, draw, scale == "filter")
            with torch.no_grad():
                for (name, w), z in zip(network.model.named_parameters(), of_weights):
                    if name in out:
                        move = z.mul_(sign * sigma)  # in this order, whose rounding counts
                        w.add_(move.mul_(kept[name].abs()) if scale == "weight" else move)
                rises.append((network.measure()[row] - network.own[row]).double())
                for name, w in network.model.named_parameters():
                    w.copy_(kept[name])
    by_hand = network.means(torch.stack(rises).mean(0)[None], ["x_mse"])[0]
    (block,) = [b for b in told["blocks"] if b["block"] == "out"]
    np.testing.assert_allclose(block["rise"]["value"], by_hand, rtol=1e-4, atol=1e-9)


def test_passes_are_twice_those_of_lpf_at_most(network):
    """100 of LPF: 20 draws of 5 sizes. Four are of a pair, for rise and curvature both."""
    for draws, pairs in ((4, 2), (20, 10), (40, 12)):
        map_ = MAP(sigma="", noise_scale="absolute", num_draws=draws)
        map_.sigma = 1e-2
        of = quadratics.subject(layers=3)
        tasks = map_.tasks(of)
        assert len(tasks) == 4 * pairs and (4 * len(tasks) <= blocks.PASSES)


def test_the_map_of_a_study(folder, tmp_path):
    argv = arguments(folder, tmp_path, "--flatness", "MAP pairs=2")
    measure([*argv, "--num_images", "8"])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"flatness.json", "flatness_MAP.csv", "flatness_MAP.png"} < names
    lines = (tmp_path / "flatness_MAP.csv").read_text().splitlines()
    assert lines[0].startswith("model,block,weights,distance,of,part,levels,at_w,rise,error")
    assert any(",middle_block," in line and "log-SNR 4..8" in line for line in lines)


def test_at_the_door():
    f = flatdiff.flatness(quadratics.subject(), "MAP pairs=2", sigma=SIGMA, progress=False)
    assert [row["block"] for row in f.rows] == ["all weights", "layers.0", "layers.1"]
    row = f.rows[1]
    assert (row["kind"], row["size"], row["term"]) == ("MAP", SIGMA, "loss")
    assert row["error"] > 0 and row["curvature_error"] > 0
    assert f.plot().axes and math.isfinite(row["rise"])
    with pytest.raises(ValueError, match="MAP, pairs: got 1, expected 2 or more"):
        flatdiff.flatness(quadratics.subject(), "MAP pairs=1", progress=False)
