"""README.md and docs/: a page is one page, its links lead somewhere, its commands can be typed."""

import argparse
import collections
import re
import runpy
import shlex
import sys

import numpy as np
import pytest
from launch import ROOT
from scipy import stats

from flatdiff import __main__
from flatdiff.flags import config, parse

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]
TYPED = re.compile(
    r"(?:python (?:scripts|evaluations|datasets)/(\w+)\.py|flatdiff (?!--)([\w-]+)) "
)


def without_code(text):
    return re.sub(r"```.*?```|^    .*$|`[^`\n]*`", "", text, flags=re.S | re.M)


def anchors(text):
    """As GitHub, and the site, make them of headings."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if not re.match("https?://", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target.read_text()), f"{page.name}: {link}"


def test_readme_is_one_page_with_one_picture():
    assert README.count("\n") <= 150
    assert README.count("![") == 1


def test_what_make_is_asked_for_is_there():
    targets = {*re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)}
    asked = {m for page in PAGES for m in re.findall(r"`make ([\w-]+)`", page.read_text())}
    assert {"demo", "docs"} <= asked <= targets


def test_the_site_names_every_page():
    site = (ROOT / "mkdocs.yml").read_text()
    names = {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"}
    assert names == {*re.findall(r"^ +- (docs/\S+)", site, re.M)}


def test_extras_are_those_of_the_setup():
    text = (ROOT / "docs/install.md").read_text().partition("## Extras")[2]
    rows = re.findall(r"^\| (`.*?) \|", text, re.M)[1:]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    setup = (ROOT / "setup.py").read_text().partition("extras_require")[2]
    assert told == {*re.findall(r'^        "(\w+)":', setup, re.M)}


def commands():
    """(page, command line) of every command that begins a line of a block of code."""
    found = []
    for page in PAGES:
        if page.parent.name == "benchmarks" or page.name == "CHANGELOG.md":
            continue
        text = page.read_text()
        known = dict(re.findall(r'^    (\w+)="(.*)"$', text, re.M))
        blocks = re.sub(r" *\\\n\s*", " ", text)
        for line in re.findall(r"^    (.*)$", blocks, re.M):
            for name in re.findall(r"\$(\w+)", line):
                given = "" if name.endswith("_FLAGS") else name
                line = line.replace(f"${name}", known.get(name, given), 1)
            if TYPED.search(line):
                found.append(pytest.param(line, id=f"{page.name}: {line[:60]}"))
    return found


class Read(SystemExit):
    """The command line was read."""


@pytest.mark.parametrize("line", commands())
def test_a_command_can_be_typed(line, monkeypatch):
    def once(reader):
        def read(*args, **kwargs):
            reader(*args, **kwargs)
            raise Read

        return read

    for module in (config, parse):
        monkeypatch.setattr(module, "parse", once(parse.parse))
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", once(argparse.ArgumentParser.parse_args)
    )
    monkeypatch.setattr(sys, "argv", ["flatdiff"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    script, verb = TYPED.search(line).groups()
    words = shlex.split(line[TYPED.search(line).end() :], comments=True)
    verbs = {file.rpartition("/")[2]: verb for verb, file in __main__.VERBS.items()}
    told = verb or verbs.get(f"{script}.py") or f"data {script}"
    with pytest.raises(Read):
        __main__.run([*told.split(), *words])


def test_tables_of_the_evidence_are_what_the_studies_say():
    made = runpy.run_path(str(ROOT / "benchmarks/evidence.py"))
    page = (ROOT / "docs/evidence.md").read_text()
    assert len(re.findall(r"^\| ?---", page, re.M)) >= 2 and made["written"](page) == page
    other = page.replace("<!-- photos16 none: fd_50", "<!-- photos16 ema: fd_50")
    assert made["written"](other) != other


def test_what_was_asked_is_answered_by_a_paired_t_test_and_holms_correction():
    """Of two questions the smaller p is doubled."""
    made = runpy.run_path(str(ROOT / "benchmarks/evidence.py"))
    questions = ["adam-sam rho=0.1 less adam fd_20", "adam 2x steps less adam fd_20"]
    page = f"<!-- digits-long ema asks: {'; '.join(questions)} -->\n"
    told = [row.split("|")[1:-1] for row in made["written"](page).splitlines()[3:]]
    sides = collections.defaultdict(dict)
    for row in made["rows_of"]("digits-long"):
        sides[row["gradient"]][row["seed"]] = row["fd_20"]
    adam = sides.pop("adam")
    for cells, name, times in zip(told, ("adam-sam rho=0.1", "adam 2x steps"), (2, 1)):
        of = sides[name]
        test = stats.ttest_rel([of[s] for s in adam], list(adam.values()))
        assert (cells[1].strip(), cells[2].strip(), float(cells[3])) == (name, "adam", 4)
        numbers = [float(cells[4]), *map(float, cells[5].split(" to ")), *map(float, cells[6:])]
        expected = [of[s] - adam[s] for s in adam]
        expected = [np.mean(expected), *test.confidence_interval(0.95), test.pvalue]
        assert numbers == pytest.approx([*expected, times * test.pvalue], rel=0.05, abs=1e-3)
    with pytest.raises(ValueError, match="no two seeds of adam less adm fd_20"):
        made["asked"]("digits-long", "ema", ["adam less adm fd_20"])
