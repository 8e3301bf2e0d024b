"""The tables of docs/evidence.md, from the studies beside this file.

    python benchmarks/evidence.py            # writes them into the page
    python benchmarks/evidence.py --check    # ends with 1 where the page says something else

A table follows a comment, `<!-- STUDY AVERAGE: COLUMN COLUMN ... -->`: the mean over seeds of each
column of benchmarks/studies/STUDY/study.csv and half of its 95 % interval, of all kinds of that
average. Or `<!-- STUDY AVERAGE asks: KIND less KIND COLUMN; ... -->`: each difference, paired by
seed, its interval and p, also after Holm's correction for these.
"""

import argparse
import csv
import re
import sys
from pathlib import Path

from flatdiff.report.text import markdown
from flatdiff.study import significance, tables
from flatdiff.study.rows import KIND, columns_of, paired, summary

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "evidence.md"
TABLE = re.compile(r"(<!-- (\S+) (\w+)( asks)?: ([^>]*?) -->\n)((?:\|.*\n)*)")


def table(study: str, average: str, columns: list[str]) -> str:
    """The rows of one average of a study, in Markdown; ValueError for what is not in its csv."""
    kinds = [line for line in summary(rows_of(study)) if line["average"] == average]
    missing = [c for c in columns if c not in kinds[0]] if kinds else [average]
    if missing:
        raise ValueError(f"{study}/study.csv has no {', '.join(missing)}")
    head = ["", "seeds", *map(title, columns)]
    lines = [[tables.label(k), str(k["seeds"])] for k in kinds]
    for line, kind in zip(lines, kinds):
        line += [tables.told(kind, c) for c in columns]
    return markdown([head, *lines]) + "\n"


def asked(study: str, average: str, questions: list[str]) -> str:
    """A row for each of what was asked, in Markdown; ValueError for what the csv cannot answer."""
    rows, found = rows_of(study), []
    for question in questions:
        kind, _, other = question.partition(" less ")
        other, _, column = other.rpartition(" ")
        sides = [{"average": average, "gradient": name} for name in (kind, other)]
        differences = paired(rows, *sides, column)
        if len(differences) < 2:
            raise ValueError(f"{study}/study.csv has no two seeds of {question}")
        found.append(
            (title(column), kind, other, len(differences), significance.mean_of(differences))
        )
    adjusted = significance.holm([mean.p for *_, mean in found])
    lines = [["", "", "less", "seeds", "difference", "95 % interval", "p", "after Holm"]]
    for (what, kind, other, seeds, mean), p in zip(found, adjusted):
        interval = f"{mean.low:+.3g} to {mean.high:+.3g}"
        numbers = f"{mean.value:+.3g}", interval, f"{mean.p:.2g}", f"{p:.2g}"
        lines.append([what, kind, other, str(seeds), *numbers])
    return markdown(lines) + "\n"


def rows_of(study: str) -> list[dict]:
    """The csv's rows, with numbers where there are such, and None where there is nothing."""
    with open(HERE / "studies" / study / "study.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = {"objective": "", "gradient": "", "average": ""}
    known = dict.fromkeys(KIND, False) | texts
    read = dict.fromkeys(texts, str)
    return [
        known | {k: read.get(k, float)(v) if v else None for k, v in row.items()} for row in rows
    ]


def title(column: str) -> str:
    """What a study's tables call it."""
    known = columns_of()
    if column == "copies":
        return tables.COPIES
    if column in known:
        return known[column].title
    kind, _, way = column.partition("_")
    if "_at" in way:
        return f"distance after {way.rpartition('_at')[2]} steps"
    steps, _, bits = way.rpartition("w")
    rounded = f"distance at {bits} bits" if steps else f"distance, {way} steps"
    return {"fd": rounded, "rise": f"lost at {bits} bits"}.get(kind, column)


def written(page: str) -> str:
    """The page, with its tables made anew."""

    def made(found: re.Match) -> str:
        comment, study, average, asks, told, _ = found.groups()
        if asks:
            return comment + asked(study, average, " ".join(told.split()).split("; "))
        return comment + table(study, average, told.split())

    return TABLE.sub(made, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    before = PAGE.read_text()
    try:
        after = written(before)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if args.check:
        print("as its studies say" if after == before else f"not what its studies say: {PAGE}")
        return int(after != before)
    PAGE.write_text(after)
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
