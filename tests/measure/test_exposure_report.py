"""What is told and drawn of a record of exposure bias, made by hand."""

import pytest

from flatdiff.measure import exposure_report

TIMESTEPS = [0, 8, 16, 23, 31, 39]
PRIORS = [(0, 1), (0.5, 1), (-0.5, 1), (0, 1.25), (0.5, 1.25)]


def estimate(*values):
    return {"value": list(values), "error": [0.01 * (1 + i) for i in range(len(values))]}


def prior(mu, s):
    known = {"mu": mu, "s": s} | {k: estimate(0.1, 0.2, mu) for k in ("mean", "std")}
    numbers = {"loss": mu, "loss_rise": mu + s, "late_norm": 3.0, "clipped": 0.25}
    return known | {k: {"value": v, "error": 0.5} for k, v in numbers.items()}


def model(name, start, **more):
    curves = ("training", "sampling", "gap", "output", "output_gap", "delta")
    found = {k: estimate(*(start + i + t for t in range(6))) for i, k in enumerate(curves)}
    return {"name": name, "priors": [prior(*p) for p in PRIORS], **found, **more}


@pytest.fixture
def record():
    """Two models, each number of which is told apart by its place."""
    less = {"name": "a", "gap": estimate(*range(6)), "delta": estimate(*range(6))}
    less["priors"] = [{k: {"value": 7.0, "error": 1.0} for k in ("loss", "loss_rise")}] * 5
    return {
        "timesteps": TIMESTEPS,
        "eps_scale": [1.0] * 6,
        "noise_norm": 10.0,
        "perfect_delta": [0.5] * 6,
        "real_images": {k: estimate(0.3, 0.3, 0.6) for k in ("mean", "std")},
        "models": [model("a", 9.5), model("b", 20.5, less=less)],
    }


def test_rows_are_of_models_and_timesteps(record):
    rows = exposure_report.curve_rows(record)
    assert [row["timestep"] for row in rows] == 2 * TIMESTEPS
    assert (rows[8]["model"], rows[8]["gap"], rows[8]["gap_error"]) == ("b", 24.5, 0.03)
    assert (rows[8]["gap_less_first"], rows[8]["perfect_delta"]) == (2, 0.5)
    assert "gap_less_first" not in rows[2] and rows[2]["output"] == 14.5


def test_rows_of_priors_number_the_channels(record):
    rows = exposure_report.prior_rows(record)
    assert [(row["mu"], row["s"]) for row in rows] == 2 * PRIORS
    assert [rows[1][f"std_{c}"] for c in range(3)] == [0.1, 0.2, 0.5]
    assert rows[1]["mean_2_error"] == 0.03 and rows[6]["loss_rise_less_first"] == 7
    assert rows[4]["loss_rise"] == 1.75 and "loss_less_first" not in rows[4]


def test_the_table_shows_some_timesteps(record):
    lines = exposure_report.table(record, num_rows=2).splitlines()
    assert lines[:3] == [
        "±: standard error over images",
        "",
        "a: l2 norm of the predicted noise",
    ]
    assert [line.split()[0] for line in lines[4:7]] == ["0", "16", "39"]
    assert lines[5].split("  ")[-1] == "1.65e+01 ± 3.00e-02" and "+13.500 ± 0.030" in lines[5]
    assert len({len(line) for line in lines[3:7]}) == 1
    assert sum("prior N(0.5, 1²): loss 0.5000 ± 0.5000 (rise +1.5000" in x for x in lines) == 2
    assert sum("gap less a's" in line for line in lines) == 1


def test_underfitting_is_told_by_the_norm_in_training(record):
    about = {"timesteps": [0, 8, 16, 23], "noise_norm": 10.0}

    def told(*norms):
        return exposure_report.underfitting(about, {"training": {"value": norms}})

    assert told(9.1, 9.5, 10, 9.9) == ""
    assert "at timestep 0 the norm in training is below 90% of the noise's, 10 (45% at 0)" in (
        told(4.5, 9.5, 10, None)
    )
    assert "at 3 timesteps from 0 to 16" in told(4.5, 6, 8.9, 9.9)
    assert "underfitting: at" not in exposure_report.table(record)
    assert "underfitting: at" in exposure_report.table(record | {"noise_norm": 30.0})


def test_curves_are_drawn_of_every_model(record):
    norms, gaps, deltas = exposure_report.curves(record).axes
    assert [line.get_label() for line in norms.lines if line.get_label()[0] != "_"] == ["a", "b"]
    assert list(gaps.lines[1].get_ydata()) == record["models"][1]["gap"]["value"]
    assert list(deltas.lines[-1].get_ydata()) == record["perfect_delta"]
    dotted = record | {"eps_scale": [1.1] * 6}
    assert len(exposure_report.curves(dotted).axes[0].lines) == len(norms.lines) + 2


def test_priors_are_drawn_where_one_number_is_shifted(record):
    panels = exposure_report.priors(record).axes
    assert len(panels) == 2 * 5  # of mu and of s
    mean, clipped = panels[2], panels[4]
    assert list(mean.lines[0].get_xdata()) == [-0.5, 0, 0.5]
    assert mean.lines[0].get_ydata() == pytest.approx([-0.2 / 3, 0.1, 0.8 / 3])  # over channels
    assert mean.lines[-1].get_ydata() == pytest.approx([0.4, 0.4])  # of the real images
    assert mean.get_title() == "dotted: real images" and not clipped.get_title()
    assert list(panels[5].lines[0].get_xdata()) == [1, 1.25]
    for one in record["models"]:
        one["priors"] = one["priors"][:1]
    assert exposure_report.sweeps_of(record) == []
