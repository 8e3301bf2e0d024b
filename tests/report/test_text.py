"""Tables of text."""

from flatdiff.report import text


def test_the_first_column_is_to_the_left_and_the_others_to_the_right():
    told = text.table([["", "ten"], ["long", "1"], ["a", "22"]])
    assert told.splitlines() == ["      ten", "long    1", "a      22"]


def test_markdown_is_a_table():
    told = text.markdown([["a", "b"], ["x", "1"], ["y", "2"]])
    assert told.splitlines() == ["| a | b |", "| --- | ---: |", "| x | 1 |", "| y | 2 |"]
