"""A page of Markdown: escaped once, its pictures in it."""

import re

from flatdiff.report import page


def test_verdicts_are_coloured_and_pictures_are_in_the_page():
    text = "| a | b |\n| --- | ---: |\n| x < y | holds |\n| **1.2** | does not hold |\n\n"
    html = page.page("<a>", f"{text}![it grows](figures/a.svg)", {"figures/a.svg": b"<svg/>"})
    assert "<title>&lt;a&gt;" in html and "x &lt; y" in html and "<strong>1.2</strong>" in html
    assert '<td class="holds"' in html and '<td class="does"' in html
    assert "data:image/svg+xml;base64,PHN2Zy8+" in html and "<figcaption>it grows<" in html
    assert "&lt;x&gt;" in page.details("all", "<x>")


def test_a_cell_says_what_it_is_of_for_a_phone():
    html = page.page("a", "| run | an *error* |\n| --- | ---: |\n| x | 1 |\n| y | 2 |\n", {})
    cells = re.findall(r'<td data-title="([^"]*)"[^>]*>(\w)', html)
    assert cells == [("run", "x"), ("an error", "1"), ("run", "y"), ("an error", "2")]
