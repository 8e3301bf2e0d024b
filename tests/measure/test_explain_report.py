"""How explained rises are told: marks, sentences and pictures, of a record made by hand."""

import math

from flatdiff.measure import explain_report as report


def item(bits, rest, rise=1.0, **more):
    terms = {"slope": 0.1, "half_curvature": rise - rest - 0.1, "predicted": rise - rest}
    terms |= {"rise": rise, "rest": rest, "path": rise, "path_rest": 0.02, "kappa": 2.0}
    terms |= {"kappa_on_the_way": 1.9, "kappa_at_length": 1.8}
    random = {"kappa": 0.5, "error_draws": 0.3, "error_examples": 0.4, "deviation": 0.6}
    return {
        **{"of": "mse", "quantizer": "minmax", "bits": bits, "length": 3.0, "norm": 30.0},
        "terms": {name: [value, 0.01] for name, value in terms.items()},
        "random": {"random": random, "random by layer": random},
        **more,
    }


def record(*names):
    layer = {"layer": "out.2", "num_weights": 9, "length": 1.0, "norm": 4.0}
    values = ("slope", "half_curvature", "predicted", "rise")
    layer["terms"] = {name: [0.5, 0.1] for name in values}
    fewest = item(4, -0.3, sum=[0.8, 0.1], interaction=[0.2, 0.05], layers=[layer])
    explained = [item(8, 0.05), fewest]
    parts = [("gap", 1.0), ("length", -0.2), ("curvature", 1.2)]
    split = [
        {"quantizer": "minmax", "bits": bits, "curvature": of, "part": part, "value": value}
        | {"error": 0.1, "low": value - 0.2, "high": value + 0.2, "seen": bits == 4}
        | dict(zip(("share", "share_low", "share_high"), shares))
        for bits in (8, 4)
        for of in ("at w", "on the way")
        for part, value in parts
        for shares in [(value, value - 0.1, value + 0.1) if bits == 4 else [math.nan] * 3]
    ]
    models = [{"name": n, "explained": explained, "split": split * (i > 0)}
              for i, n in enumerate(names)]  # fmt: skip
    made = {"models": models}
    return made | {"rows": report.rows(made)}


def test_where_the_expansion_breaks_is_marked_and_said():
    made = record("a/ema.pt")
    eight, four = made["rows"]
    assert (eight["holds"], four["holds"], four["path_holds"]) == ("yes", "no", "yes")
    assert eight["relative_length"] == 0.1 and four["rest_share"] == -0.3
    assert four["kappa_random_error"] == 0.5 and eight["sum"] is None
    text = report.text(made)
    assert "the expansion at w is within 10% of the rise at 8 bits" in text
    assert "the expansion at w breaks at 4 (-30 %) bits" in text
    assert "Simpson's rule is within 10% of the rise at 8, 4 bits" in text
    assert "add up to 0.8 +- 0.1; all at once rise 0.2 +- 0.05 more (20 % of the rise)" in text


def test_tables_and_pictures():
    made = record("a/ema.pt", "b/ema.pt")
    tables = report.tables(made)
    assert [len(tables[name]) for name in ("", "_layers", "_split")] == [4, 2, 12]
    assert tables["_layers"][0]["relative_length"] == 0.25
    figures = report.figures(made)
    terms, curvatures, split = figures[""].axes
    labels = [tick.get_text() for tick in terms.get_xticklabels()]
    assert labels == ["a, 8 bits", "a, 4 bits", "b, 8 bits", "b, 4 bits"]
    assert split.get_ylabel() == "share of the gap, a less b, 95 %"
    assert [tick.get_text() for tick in split.get_xticklabels()] == [
        "8 bits, not told from 0",
        "4 bits",
    ]
    assert "curvature" in curvatures.get_ylabel() and len(figures["_layers"].axes) == 2
    assert report.short(["a", "b"]) == {"a": "a", "b": "b"}
