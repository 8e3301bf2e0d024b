"""What flatness finds of a loss that is known: of a quadratic, everything has a closed form."""

import json
import math

import numpy as np
import pytest
import torch

import flatdiff
from flatdiff.measure.found import Rows

N, D = 50, 8
SIZES = {"sigma": [1e-2, 1e-1], "radius": [0.5]}


class Quadratic(torch.nn.Module):
    """loss_i = w . H_i w / 2, H_i diagonal, with the mean `curvatures`, at w = `at`."""

    def __init__(self, curvatures, at=0.0, seed=0):
        super().__init__()
        self.w = torch.nn.Parameter(torch.full((D,), at))
        scatter = torch.rand(N, D, generator=torch.Generator().manual_seed(seed)) + 0.5
        self.each = torch.tensor(curvatures) * scatter / scatter.mean(dim=0)


def loss(net, draws):
    return 0.5 * (net.each[draws] * net.w**2).sum(dim=1) + 1


def subject(curvatures=(8.0, 4, 2, 1, 1, 1, 1, 1), **how):
    return flatdiff.subject(Quadratic(curvatures, **how).eval(), loss=loss, draws=torch.arange(N))


def of(found, **wanted):
    rows = [row for row in found.rows if all(row[k] == v for k, v in wanted.items())]
    assert len(rows) == 1
    return rows[0]


@pytest.fixture(scope="module")
def found():
    return flatdiff.flatness(
        subject(),
        ["LPF", "MC", "HESSIAN"],
        **SIZES,
        num_draws=60,
        num_eigenvalues=3,
        progress=False,
    )


def test_rises_and_curvatures_are_the_closed_forms(found):
    trace = 19.0
    for size in SIZES["sigma"]:
        row = of(found, kind="LPF", size=size)
        assert abs(row["rise"] - size**2 * trace / 2) < 4 * row["error"]
        assert row["error"] < 0.3 * row["rise"]
        assert (row["at_w"], row["term"]) == (1.0, "loss")
    row = of(found, kind="MC", size=0.5)
    assert abs(row["rise"] - 0.5**2 * trace / D / 2) < 4 * row["error"]
    assert row["distance"] == pytest.approx(0.5)
    assert of(found, kind="HESSIAN", size="trace")["value"] == pytest.approx(trace, rel=1e-3)
    for number, value in ((1, 8), (2, 4), (3, 2)):
        row = of(found, kind="HESSIAN", size=number)
        assert row["value"] == pytest.approx(value, rel=1e-3)
    assert not found.parts  # of draws of which no noise levels are known


def test_the_printed_error_is_the_scatter_over_seeds():
    """Over the draws; the examples stay."""
    rows = [
        flatdiff.flatness(subject(), "LPF", seed=s, sigma=[0.1], num_draws=20, progress=False).rows[
            0
        ]
        for s in range(20)
    ]
    scatter = np.std([row["rise"] for row in rows], ddof=1)
    printed = np.sqrt(np.mean([row["error_draws"] ** 2 for row in rows]))
    assert 0.6 < scatter / printed < 1.5
    both = [math.hypot(row["error_draws"], row["error_examples"]) for row in rows]
    assert [row["error"] for row in rows] == both
    assert len({row["rise"] for row in rows}) == 20


def test_an_interval_covers_the_difference_and_is_narrower_than_without_pairs(found):
    """Curvatures of 1.2 times: the rise is 1.2 times as high, and nearly all scatter is shared."""
    other = flatdiff.flatness(
        subject(tuple(1.2 * c for c in (8.0, 4, 2, 1, 1, 1, 1, 1))),
        ["LPF", "HESSIAN"],
        sigma=SIZES["sigma"],
        num_draws=60,
        num_eigenvalues=2,
        progress=False,
    )
    rows = other.compare(found)
    assert [(r["kind"], r["size"]) for r in rows] == [
        ("LPF", 1e-2),
        ("LPF", 1e-1),
        ("HESSIAN", "trace"),
        ("HESSIAN", 1),
        ("HESSIAN", 2),
    ]
    for row, truth in zip(rows, (0.2e-4 * 19 / 2, 0.2e-2 * 19 / 2, 0.2 * 19, 0.2 * 8, 0.2 * 4)):
        assert row["low"] <= truth * 1.0001 and truth * 0.9999 <= row["high"]
        assert row["low"] < row["difference"] < row["high"]
    alone = of(found, kind="LPF", size=0.1)["error"]
    assert rows[1]["error"] < 0.3 * alone
    back = found.compare(other)
    assert [r["difference"] for r in back] == pytest.approx([-r["difference"] for r in rows])


def test_other_seeds_are_not_paired_in_draws():
    rows = []
    for seed in (0, 1):
        a, b = (
            flatdiff.flatness(subject(), "LPF", seed=s, sigma=[0.1], num_draws=20, progress=False)
            for s in (0, seed)
        )
        rows += a.compare(b)
    assert rows[0]["error"] == 0 and rows[0]["difference"] == 0
    assert rows[1]["low"] < 0 < rows[1]["high"] and rows[1]["error"] > 0


def test_what_has_nothing_in_common_is_not_compared(found):
    other = flatdiff.flatness(subject(), "LPF", sigma=[0.3], num_draws=4, progress=False)
    with pytest.raises(ValueError, match="nothing was measured of both"):
        found.compare(other)
    fewer = flatdiff.subject(Quadratic((1.0,) * D).eval(), loss=loss, draws=torch.arange(10))
    other = flatdiff.flatness(fewer, "LPF", sigma=[0.1], num_draws=4, progress=False)
    with pytest.raises(ValueError, match="on 50 examples and .* on 10: measure both on the same"):
        found.compare(other)


def test_what_is_written_can_be_read(found, tmp_path):
    text = found.to_json(str(tmp_path / "found.json"))
    assert (tmp_path / "found.json").read_text() == text
    content = json.loads(text)
    assert content["rows"] == found.rows and content["num_weights"] == D
    assert content["settings"]["num_draws"] == 60
    for kind in ("", "LPF", "HESSIAN"):
        found.plot(kind).savefig(tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 5000
    assert "HESSIAN      3" in repr(found) and "<td>HESSIAN</td>" in found._repr_html_()


def test_rows_are_shown_as_a_table_for_each_kind_of_them():
    rows = Rows([{"a": "<b>", "b": 0.123456}, {"a": None, "c": 3}])
    assert [line.split() for line in repr(rows).splitlines()] == [
        ["a", "b"],
        ["<b>", "0.1235"],
        [],
        ["a", "c"],
        ["3"],
    ]
    assert rows._repr_html_().count("<table>") == 2
    assert "&lt;b&gt;" in rows._repr_html_() and repr(Rows()) == "no rows"


def test_an_interrupted_call_goes_on_where_it_was(tmp_path, monkeypatch):
    given = {"sigma": [0.1], "num_draws": 8, "folder": str(tmp_path), "progress": False}
    whole = flatdiff.flatness(subject(), "LPF", **given | {"folder": ""})
    real, calls = flatdiff.Subject.measure, []

    def measure(self):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(flatdiff.Subject, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        flatdiff.flatness(subject(), "LPF", **given)
    assert flatdiff.flatness(subject(), "LPF", **given).rows == whole.rows
    assert len(calls) == 5 + 1 + 5  # at the weights once, three moves; once, the other five


def test_a_folder_tells_subjects_and_seeds_apart(tmp_path):
    given = {"sigma": [0.1], "num_draws": 4, "progress": False}
    for seed, start in ((0, 0.0), (0, 0.5), (1, 0.5), (0, 0.0)):
        one = subject(at=start)
        whole = flatdiff.flatness(one, ["LPF", "HESSIAN"], seed=seed, **given)
        kept = flatdiff.flatness(one, ["LPF", "HESSIAN"], seed=seed, folder=str(tmp_path), **given)
        assert kept.rows == whole.rows


def test_weights_are_measured_as_they_stand():
    """A subject that was made before its network was trained on says what a new one says."""
    given = {"sigma": [0.1], "num_draws": 4, "progress": False}
    old = subject()
    with torch.no_grad():
        old.weights[0].add_(0.5)
    new = flatdiff.subject(old.model, loss=old.loss, draws=old.draws)
    found = flatdiff.flatness(old, "LPF", **given)
    assert found.rows == flatdiff.flatness(new, "LPF", **given).rows
    assert found.rows[0]["at_w"] == float(new.at_w[0, 0]) != float(old.at_w[0, 0])


def test_what_is_no_subject_is_refused():
    with pytest.raises(ValueError, match=r"expected what flatdiff\.subject makes, got Quadratic"):
        flatdiff.flatness(Quadratic((1.0,) * D), "LPF")
    with pytest.raises(ValueError, match="did you mean LPF"):
        flatdiff.flatness(subject(), "LFP")
    with pytest.raises(ValueError, match=r"num_draws is 4\.0; expected a whole number"):
        flatdiff.flatness(subject(), "LPF", num_draws=4.0)
    with pytest.raises(ValueError, match="num_draws is 5; expected an even number"):
        flatdiff.flatness(subject(), "LPF", num_draws=5)


def test_a_loss_that_cannot_be_differentiated_has_no_hessian():
    given = {"num_draws": 4, "num_eigenvalues": 2, "progress": False}
    detached = flatdiff.subject(
        Quadratic((1.0,) * D).eval(),
        loss=lambda net, draws: loss(net, draws).detach(),
        draws=torch.arange(N),
    )
    assert flatdiff.flatness(detached, "LPF", sigma=0.1, **given).rows[0]["rise"] > 0
    with pytest.raises(ValueError, match="the loss of Quadratic cannot be differentiated"):
        flatdiff.flatness(detached, "HESSIAN", **given)
    with torch.no_grad():
        found = flatdiff.flatness(subject(), "HESSIAN", **given)
    assert found.rows == flatdiff.flatness(subject(), "HESSIAN", **given).rows
    with torch.inference_mode(), pytest.raises(ValueError, match="runs under no_grad"):
        flatdiff.flatness(subject(), "HESSIAN", **given)


def test_nothing_of_the_caller_is_changed():
    """Neither random numbers nor gradients nor weights."""
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one = subject(at=0.5)
    before = one.weights[0].clone()
    flatdiff.flatness(one, ["LPF", "MC", "HESSIAN"], num_draws=4, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.weights[0], before) and one.weights[0].grad is None


def test_sizes_of_two_scales_are_not_compared():
    given = {"sigma": 0.1, "num_draws": 4, "progress": False}
    scales = ("absolute", "filter")
    one, other = (flatdiff.flatness(subject(at=0.5), noise_scale=s, **given) for s in scales)
    with pytest.raises(ValueError, match="nothing was measured of both: .* at one noise_scale"):
        one.compare(other)
