"""Verdicts on made-up numbers."""

import numpy as np
import pytest
from scipy import stats

from flatdiff.study import claims, significance
from flatdiff.study.claims import Claim
from flatdiff.study.rows import mean_and_half, paired, summary

A = {"gradient": "adam-sam rho=0.1"}
B = {"gradient": "adam"}
CLAIM = Claim("lower", "abstract", "lpf", A, B)


COSTS = {"adam 2x steps": 200, "adam 1.2x steps": 120, "adam-sam sam_every=5": 121}


def row(gradient, seed, average="none", pertub=0.0, objective="", **values):
    climbs = gradient.startswith(("adam-sam", "adam-msam", "adam-random"))
    about = {
        "objective": objective,
        "gradient": gradient,
        "climbs": climbs,
        "matched": gradient.endswith("x steps"),
        "images": COSTS.get(gradient, 200 if gradient.startswith("adam-sam") else 100),
        "input_pertub": pertub,
        "average": average,
        "seed": seed,
    }
    return about | values


def rows_of(sam, adam, column="lpf"):
    pairs = ((A["gradient"], sam), (B["gradient"], adam))
    return [row(name, s, **{column: v}) for name, vs in pairs for s, v in enumerate(vs)]


@pytest.mark.parametrize(
    ("sam", "expected"),
    [
        ([1.0, 1.1, 0.9], claims.HOLDS),
        ([3.0, 3.1, 2.9], claims.FAILS),
        ([1.0, 3.1, 2.2], claims.UNDECIDED),
        ([1.0, 2.9, 1.5], claims.UNDECIDED),
        ([1.0], claims.UNDECIDED),
    ],
)
def test_verdicts(sam, expected):
    verdict = claims.judge(CLAIM, rows_of(sam, [2.0, 2.0, 2.0]))
    assert verdict.verdict == expected and verdict.n == len(sam)
    assert (verdict.why == "one seed") == (len(sam) == 1)


def test_seeds_are_paired_and_those_without_a_value_left_out():
    rows = rows_of([1.0, None, 3.0], [5.0, 6.0, 7.5])[::-1]
    assert sorted(paired(rows, A, B, "lpf")) == [-4.5, -4.0]
    assert claims.judge(CLAIM, rows_of([None], [1.0])) is None


KINDS = ("adam", *(f"adam-sam {name}" for name in "abcd"))


def correlated_rows(seeds=3, kinds=KINDS):
    """Sharpness and the loss to rounding go together from kind to kind."""
    rng = np.random.default_rng(1)
    found = []
    for seed in range(seeds):
        for i, kind in enumerate(kinds):
            for average in ("none", "ema"):
                x = i + rng.normal(0, 0.01)
                found.append(row(kind, seed, average, lpf=x, rise_w8=2 * x + rng.normal(0, 0.01)))
    return found


def test_a_correlation_is_decided_by_kinds():
    found = claims.correlated(correlated_rows(), "lpf", "rise_w8")
    assert (found.verdict, found.n, found.low) == (claims.HOLDS, 5, None)
    assert found.p == pytest.approx(2 / 120) and found.estimate > 0.99
    against = [r | {"rise_w8": -r["rise_w8"]} for r in correlated_rows()]
    assert claims.correlated(against, "lpf", "rise_w8").verdict == claims.FAILS
    few = claims.correlated(correlated_rows(seeds=9, kinds=KINDS[:4]), "lpf", "rise_w8")
    assert (few.verdict, few.why) == (claims.UNDECIDED, "4 kinds of training cannot decide it")


def test_a_correlation_is_of_seeds_that_each_kind_has_with_all_averages():
    rows = correlated_rows()
    rows[0] |= {"rise_w8": None}  # of seed 0
    kept = [r for r in rows if r["seed"]]
    found = claims.correlated(rows, "lpf", "rise_w8")
    lpf, lost = ([r[c] for r in kept] for c in ("lpf", "rise_w8"))
    assert (found.n, found.estimate) == (5, pytest.approx(np.corrcoef(lpf, lost)[0, 1], abs=1e-12))
    assert claims.correlated(rows[:2], "lpf", "rise_w8") is None
    apart = [r for r in rows if (r["seed"] == 1) == (r["gradient"] == "adam")]
    assert claims.correlated(apart, "lpf", "rise_w8") is None  # no seed that all have


def made_up():
    """SAM is flatter and no better in quality; EMA helps both alike; Adam of equal cost wins."""
    rng = np.random.default_rng(2)
    rows = []
    for seed in range(3):
        for gradient, flat, quality in (
            ("adam", 2.0, 5.0),
            (A["gradient"], 1.0, 5.0),
            ("adam 2x steps", 2.0, 3.0),
        ):
            for average, factor in (("none", 1.0), ("ema", 0.9)):
                noise = rng.normal(0, 0.01, 3)
                values = {
                    "lpf": flat * factor + noise[0],
                    "fd_20": quality * factor + noise[1],
                    "rise_w8": flat / 10 + noise[2],
                }
                rows.append(row(gradient, seed, average, **values))
    return rows


def test_the_claims_of_a_study():
    found = {v.text: v for v in claims.verdicts(made_up())}
    assert found["SAM is flatter than Adam: LPF"].verdict == claims.HOLDS
    assert found["SAM alone is flatter than Adam + EMA: LPF"].verdict == claims.HOLDS
    assert found["SAM loses less distance at 8 bits than Adam"].verdict == claims.HOLDS
    against = "SAM has a lower distance than adam 2x steps at equal cost, 20 steps"
    assert found[against].verdict == claims.FAILS
    assert found[against].place == claims.FAIR == "not in the paper"
    assert not any("eigenvalue" in text or "SWA" in text for text in found)  # nothing measured
    correlation = next(v for v in found.values() if v.column == "r")
    assert correlation.n == 3 and correlation.verdict == claims.UNDECIDED
    assert correlation.estimate > 0.9 and correlation.why == "3 kinds of training cannot decide it"


def test_equal_cost_is_said_where_it_is_equal():
    odd = "adam-sam sam_every=3"  # nothing within 2 %
    kinds = ["adam", A["gradient"], "adam-sam sam_every=5", odd, "adam-msam"]
    kinds += ["adam 1.2x steps", "adam 2x steps"]
    rows = [row(kind, seed, fd_20=1.0 + seed) for kind in kinds for seed in (0, 1)]
    rows = [r | {"images": 133} if r["gradient"] == odd else r for r in rows]
    fair = [c for c in claims.claims(rows) if c.place == claims.FAIR]
    assert [(c.a["gradient"], c.b["gradient"]) for c in fair] == [
        (A["gradient"], "adam 2x steps"),
        ("adam-sam sam_every=5", "adam 1.2x steps"),
        ("adam-msam", "adam"),
    ]
    texts = [c.text for c in claims.claims(rows)]
    assert not [t for t in texts if "equal cost" in t and odd in t]
    alone = [r for r in rows if r["gradient"] != "adam"]  # no plain Adam: still at equal cost
    assert {c.place for c in claims.claims(alone)} == {claims.FAIR}


def test_rounded_networks_are_compared_at_equal_cost():
    """The order of distances may turn with the bits: SAM is worse by 1, at 3 bits better by 2."""
    kinds = {"adam": (4.0, 9.0), A["gradient"]: (3.0, 4.0), "adam 2x steps": (2.0, 6.0)}
    noise = [0.0, 0.1, -0.1]
    rows = [
        row(kind, seed, fd_20=plain + noise[seed], fd_20_w3=rounded - noise[seed], rise_w3=0.0)
        for kind, (plain, rounded) in kinds.items()
        for seed in range(3)
    ]
    rows = [r | {"fd_20": r["fd_20"] + r["seed"] / 100 * r["climbs"]} for r in rows]
    rows = [r | {"fd_20_w3": r["fd_20_w3"] + r["seed"] / 100 * r["climbs"]} for r in rows]
    fair = {v.text: v for v in claims.verdicts(rows) if v.place == claims.FAIR}
    text = "SAM has a lower distance than adam 2x steps at equal cost, "
    plain, rounded = fair[f"{text}20 steps"], fair[f"{text}at 3 bits"]
    assert (plain.verdict, rounded.verdict) == (claims.FAILS, claims.HOLDS)
    assert (plain.estimate, rounded.estimate) == pytest.approx((1.01, -1.99))
    assert rounded.base == pytest.approx(6.0) and len(fair) == 2


def test_what_is_compared_is_said_without_raw_weights():
    rows = [
        row(g, s, average, lpf=1.0 + s, gap_mean=1.0, rise_w8=1.0)
        for g in ("adam", A["gradient"])
        for s in (0, 1)
        for average in ("ema", "swa")
    ]
    texts = [c.text for c in claims.claims(rows)]
    assert "SAM + EMA is flatter than Adam + EMA: LPF" in texts
    assert "SAM + SWA loses less distance at 8 bits than Adam + SWA" in texts
    assert "SAM + EMA is flatter than Adam + SWA: LPF" in texts
    gap = "SAM + EMA has a smaller epsilon-norm gap than Adam + EMA, over the rest of the chain"
    assert gap in texts and not [t for t in texts if "alone" in t]


def test_holm_takes_the_papers_claims_as_a_family_and_those_at_equal_cost_as_another():
    found = claims.verdicts(made_up())
    for family in (
        [v for v in found if (v.place == claims.FAIR) is fair] for fair in (False, True)
    ):
        adjusted = significance.holm([v.p for v in family])
        expected = [v.verdict if a < 0.05 else claims.UNDECIDED for v, a in zip(family, adjusted)]
        assert family and [v.holm for v in family] == expected
    assert claims.verdicts(rows_of([1.0], [2.0]))[0].holm == ""  # one seed: no p


@pytest.mark.parametrize(
    ("flat", "sams", "its_own"),
    [(2.0, claims.HOLDS, claims.UNDECIDED), (1.0, claims.UNDECIDED, claims.HOLDS)],
)
def test_a_control_decides_whether_it_is_sams_doing(flat, sams, its_own):
    """A control as sharp as Adam, then one as flat as SAM. The paper's claims stay as they are."""
    before = [r | {"rise_w8": None} for r in made_up()]
    rng = np.random.default_rng(7)
    control = [
        row("adam-random rho=0.1", seed, average, lpf=flat + noise, fd_20=5.0, rise_w8=None)
        for seed in range(3)
        for average, noise in (("none", rng.normal(0, 0.01)), ("ema", 0.0))
    ]
    found = claims.verdicts(before + control)
    theirs = claims.AGAINST, claims.CONTROL
    assert [v for v in found if v.place not in theirs] == claims.verdicts(before)
    against, own = ({v.text: v for v in found if v.place == place} for place in theirs)
    assert against["SAM is flatter than adam-random rho=0.1: LPF"].verdict == sams
    assert own["adam-random rho=0.1 is flatter than Adam: LPF"].verdict == its_own
    assert own.keys() >= {"adam-random rho=0.1 has a lower distance than Adam, 20 steps"}


def test_controls_are_families_of_their_own():
    """p is 0.03 in each: alone decided, one of two or three is not."""
    spread = [0.69, 1.0, 1.31]
    rows = [
        r | {"mc": 2.0 if r["gradient"] == "adam" else None} for r in rows_of(spread, [2.0] * 3)
    ]
    rows += [row("adam-random rho=0.1", s, lpf=3.3 - v, mc=v) for s, v in enumerate(spread)]
    rows += [row("adam-sam-down rho=0.1", s, lpf=v, mc=v) for s, v in enumerate(spread)]
    found = {v.text: v for v in claims.verdicts(rows)}
    sam = found["SAM is flatter than Adam: LPF"]
    assert 0.05 / 3 < sam.p < 0.05 and sam.verdict == sam.holm == claims.HOLDS
    for column in ("LPF", "MC"):
        down = found[f"adam-sam-down rho=0.1 is flatter than Adam: {column}"]
        assert (down.p, down.verdict) == (pytest.approx(sam.p), claims.HOLDS)
        assert down.holm == claims.UNDECIDED
    against = [v for v in found.values() if v.place == claims.AGAINST]
    assert [v.p for v in against] and [v.holm for v in against] == [
        v.verdict if p < 0.05 else claims.UNDECIDED
        for v, p in zip(against, significance.holm([v.p for v in against]))
    ]


def test_a_difference_is_a_share_of_what_it_is_compared_with():
    rows = [r | {"rise_w8": r["fd_20"] / 5} for r in made_up()]
    found = {v.text: v for v in claims.verdicts(rows)}
    for text, base in (
        ("SAM is flatter than Adam: LPF", 2.0),
        ("SAM loses less distance at 8 bits than Adam", 5.0),  # its distance, not its loss
        ("SAM has a lower distance than adam 2x steps at equal cost, 20 steps", 3.0),
    ):
        assert found[text].base == pytest.approx(base, abs=0.03)


def test_each_claim_says_what_it_could_have_seen():
    rng = np.random.default_rng(5)
    sam, adam = rng.normal(1, 0.5, 4).tolist(), rng.normal(1, 0.5, 4).tolist()
    found = claims.judge(CLAIM, rows_of(sam, adam))
    error = stats.sem(np.subtract(sam, adam))
    power = stats.nct.sf(stats.t.ppf(0.975, 3), 3, found.seen / error)
    assert power == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(
    ("training", "sampling", "why"),
    [
        ((9.5, 11.5), (9.6, 9.6), ""),  # both near the noise's norm, 10
        ((6.5, 8.5), (9.6, 9.6), "underfitting"),
        ((8.5, 8.5), (10.5, 8.5), ""),  # it is the norm in sampling that differs
    ],
)
def test_gaps_that_differ_by_the_norm_in_training_are_told(training, sampling, why):
    rows = rows_of([3.0, 3.1], [1.0, 1.2], "gap_start")
    for r in rows:
        side = r["gradient"] == "adam"
        about = {"training_start": training[side], "sampling_start": sampling[side]}
        r |= about | {"noise_norm": 10.0}
    found = claims.judge(Claim("", "", "gap_start", A, B), rows)
    assert (found.verdict, found.why) == (claims.FAILS, why)


def test_each_radius_has_its_own_claims_and_input_perturbation_one_more():
    rows = made_up() + [row("adam-sam rho=0.5", 0, lpf=1.0), row("adam", 0, pertub=0.1, lpf=1.5)]
    texts = [c.text for c in claims.claims(rows)]
    assert "adam-sam rho=0.5 is flatter than Adam: LPF" in texts
    assert f"{A['gradient']} is flatter than Adam: LPF" in texts
    shifted = [c for c in claims.claims(rows) if "input perturbation" in c.text]
    assert [c.b["input_pertub"] for c in shifted] == [0.1, 0.1]
    assert [c.a["input_pertub"] for c in shifted] == [0.0, 0.0]
    assert not claims.verdicts([row("adam", 0, lpf=1.0)])  # nothing to compare


def test_each_objective_has_claims_and_a_correlation_of_its_own():
    """Losses of another objective are in other units: they neither make nor break a claim."""
    alone = claims.verdicts(made_up())
    scaled = [
        r | {"objective": "flow", "lpf": 1000 * r["lpf"], "fd_20": 9 - r["fd_20"]}
        for r in made_up()
    ]
    both = [r | {"objective": "ddpm"} for r in made_up()] + scaled
    found = claims.verdicts(both)
    ddpm = [v for v in found if v.text.startswith("ddpm: ")]
    flow = [v for v in found if v.text.startswith("flow: ")]
    assert len(ddpm) == len(flow) == len(alone) and len(found) == 2 * len(alone)
    for before, a, b in zip(alone, ddpm, flow):
        assert a.text == f"ddpm: {before.text}"
        assert (a.estimate, a.low, a.p, a.n) == (before.estimate, before.low, before.p, before.n)
        factor = {"lpf": 1000, "fd_20": -1}.get(before.column, 1)
        assert b.estimate == pytest.approx(factor * before.estimate)


def test_summary_is_mean_and_interval_over_seeds():
    rows = rows_of([1.0, 2.0, 4.0], [1.0, None, 2.0])
    sam, adam = summary(rows)
    assert sam["lpf"] == pytest.approx(7 / 3) and sam["seeds"] == 3
    interval = stats.ttest_1samp([1, 2, 4], 0).confidence_interval(0.95)
    assert sam["lpf"] + sam["lpf_half"] == pytest.approx(interval.high)
    assert adam["seeds"] == 2
    interval = stats.ttest_1samp([1, 2], 0).confidence_interval(0.95)
    assert adam["lpf"] - adam["lpf_half"] == pytest.approx(interval.low)
    assert mean_and_half([None]) == (None, None)
    assert mean_and_half([2.0, None]) == (2.0, None)
