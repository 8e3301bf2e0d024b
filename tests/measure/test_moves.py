"""Moves by name, against autograd in float64, a dense Hessian, LPF's draws and the quantizer."""

import numpy as np
import pytest
import torch
from small import convolutions

import flatdiff
from flatdiff.flags import choices
from flatdiff.measure import moves
from flatdiff.measure.moves import Move, Start
from flatdiff.quantization.grid import layers_of, quantized
from flatdiff.weights import perturb

FACTORS = torch.tensor([1.0, 2.0, 5.0])


@pytest.fixture(scope="module")
def start():
    """A linear network A and a squared error, each output with a factor."""
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3, bias=False).eval()
    draws = torch.randn(50, 4) * torch.tensor([1.0, 2.0, 0.5, 1.5]), torch.randn(50, 3)
    subject = flatdiff.subject(net, loss=squared, draws=draws, batch_size=12)
    return Start(subject, [2 * net.weight.detach() + 1])


def squared(net, draws):
    x, y = draws
    return ((net(x) - y).square() * FACTORS).sum(1)


def moved(start, text, average=True):
    """w' - w of a text, flat, and the distance that was told."""
    move = moves.one(text, average)
    before = [w.detach().clone() for w in start.subject.weights]
    with moves.held(start, move) as distance:
        difference = [w.detach() - b for w, b in zip(start.subject.weights, before)]
    assert all(torch.equal(w, b) for w, b in zip(start.subject.weights, before))
    flat = torch.cat([d.flatten() for d in difference]).double()
    assert float(distance) == pytest.approx(float(flat.norm()), rel=1e-5)
    return flat


def test_a_climb_is_along_the_gradient_of_all_images_and_a_descent_back(start):
    x, y = (part.double().numpy() for part in start.subject.draws)
    a = start.subject.model.weight.detach().double().numpy()
    gradient = (2 * FACTORS.double().numpy() * (x @ a.T - y)).T @ x / len(x)
    expected = torch.from_numpy(0.2 * gradient / np.linalg.norm(gradient)).flatten()
    torch.testing.assert_close(moved(start, "climb rho=0.2"), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moved(start, "descent rho=0.2"), -expected, rtol=1e-4, atol=1e-6)


def test_the_eigenvector_is_that_of_the_dense_hessian_uphill(start):
    """The Hessian is FACTORS on the outputs times 2 E x x^T on the inputs."""
    x = start.subject.draws[0].double().numpy()
    dense = np.kron(np.diag(FACTORS.numpy()), 2 * x.T @ x / len(x))
    values, vectors = np.linalg.eigh(dense)
    found = moved(start, "eigenvector length=0.5")
    assert found.numpy() @ dense @ found.numpy() / 0.25 == pytest.approx(values[-1], rel=2e-3)
    assert abs(found.numpy() @ vectors[:, -1]) == pytest.approx(0.5, rel=1e-3)
    assert float(found @ moved(start, "climb rho=1")) > 0
    torch.testing.assert_close(
        moved(start, "eigenvector length=-0.5"), -found, rtol=1e-4, atol=1e-6
    )


def test_random_moves_are_those_of_lpf_and_mc(start):
    for noise, text in (
        (perturb.gaussian, "gaussian sigma=0.1"),
        (perturb.sphere, "sphere radius=2"),
    ):
        weights = [start.subject.model.weight.detach().clone()]
        with perturb.at(weights, noise(0.1 if "sigma" in text else 2.0, seed=0, draw=0)):
            expected = (weights[0] - start.subject.model.weight.detach()).flatten().double()
        torch.testing.assert_close(moved(start, text), expected)
        other = moves.named(text, num_draws=2)[1]
        before = start.subject.model.weight.detach().clone()
        with moves.held(start, other):
            mirrored = (start.subject.model.weight.detach() - before).flatten().double()
        torch.testing.assert_close(mirrored, -expected, rtol=1e-5, atol=1e-6)


def test_towards_is_a_part_of_the_way(start):
    whole = (start.others[0] - start.subject.model.weight.detach()).flatten().double()
    torch.testing.assert_close(moved(start, "towards share=1"), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moved(start, "towards share=0.25"), whole / 4, rtol=1e-5, atol=1e-6)


def test_rounding_and_pruning_are_of_the_layers_that_are_quantized():
    torch.manual_seed(0)
    net = convolutions()
    draws = torch.randn(8, 3, 8, 8)
    subject = flatdiff.subject(net, loss=lambda n, x: n(x).square().mean(1), draws=draws)
    start = Start(subject)
    layers = [layer.weight for layer in layers_of(net).values()]
    before = {name: w.detach().clone() for name, w in net.named_parameters()}
    rounded = [w.detach().clone() for w in layers]
    with torch.no_grad():
        quantized(3, granularity="channel")(rounded)
    with moves.held(start, moves.one("quantized bits=3 granularity=channel")):
        assert all(torch.equal(w, r) for w, r in zip(layers, rounded))
    sizes = np.sort(np.abs(np.concatenate([w.detach().numpy().ravel() for w in layers])))
    with moves.held(start, moves.one("pruned share=0.4")):
        zeros = sum(int((w == 0).sum()) for w in layers)
        others = [w for w in net.parameters() if all(w is not x for x in layers)]
        assert others and all(w.any() for w in others if w.ndim == 1 and w.mean() == 1)
    assert zeros == int(0.4 * len(sizes))
    assert all(torch.equal(w, before[name]) for name, w in net.named_parameters())


def test_a_name_alone_has_the_sizes_of_the_registry_and_random_ones_draws():
    found = moves.named("gaussian,climb rho=0.5,quantized granularity=channel", num_draws=2)
    sizes = choices.MOVES["gaussian"].sizes
    assert found[: 2 * len(sizes)] == [Move("gaussian", s, d) for s in sizes for d in (0, 1)]
    assert found[2 * len(sizes)] == Move("climb", 0.5)
    assert {m.kind for m in found[7:]} == {"quantized granularity=channel"}
    assert {m.kind for m in moves.named("")} == choices.MOVES.keys() - {"towards"}
    assert {m.kind for m in moves.named("", average=True)} == choices.MOVES.keys()
    assert len({str(m) for m in moves.named("", 4, True)}) == len(moves.named("", 4, True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("climbs", "got 'climbs', expected one of gaussian.*did you mean climb"),
        ("climb sigma=1", "climb has no knob 'sigma'; it has rho"),
        ("gaussian draw=3", "gaussian has no knob 'draw'"),
        ("quantized bits=9", "quantized, bits: got 9, expected 2 to 8"),
        ("pruned share=2", "pruned, share: got 2, expected 0 to 1"),
        ("climb rho=0", "climb, rho: got 0, expected a number, not 0"),
        ("sphere radius=inf", "sphere, radius: got inf"),
        ("towards", "towards: give --average_path"),
    ],
)
def test_what_is_no_move_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        moves.named(text)


def test_one_move_has_one_size():
    assert moves.one("climb rho=0.1") == Move("climb", 0.1)
    with pytest.raises(ValueError, match="'climb' has no one size; .* as climb rho="):
        moves.one("climb")


def test_a_loss_without_a_slope_leads_nowhere():
    net = torch.nn.Linear(2, 2)
    subject = flatdiff.subject(
        net.eval(), loss=lambda n, x: (n(x) * 0).sum(1), draws=torch.randn(6, 2)
    )
    with pytest.raises(ValueError, match="has the norm 0.0: it leads nowhere"):
        moves.perturbation_of(Start(subject), Move("climb", 0.1))
