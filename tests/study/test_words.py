"""Sentences of a report."""

from studies import model_of

from flatdiff.study import rows, words


def test_underfitting_is_told_where_it_is():
    summary = rows.summary(rows.rows_of([model_of()]))
    told = words.underfitting(summary)
    assert "So it is nearest t = 0 of every model. " in told and "√(3HW) = 10" in told
    good = summary[0] | {"training_start": 9.2, "gradient": "adam-sam"}
    assert "So it is nearest t = 0 of adam. " in words.underfitting([*summary, good])
    assert "So it is nowhere here. " in words.underfitting([good])
    assert words.underfitting([good | {"noise_norm": None}]) == ""
