"""The tables of a study's report: rows of cells, their header first."""

from ..judge import power
from ..report.compare import REAL
from ..report.text import Rows, with_error
from .claims import Verdict, of, plus
from .rows import KIND, columns_of, distances, mean_and_half, paired, steps_of
from .significance import mean_of

COPIES = "nearer to images trained on than those held out"


def label(row: dict) -> str:
    """What was trained, as the paper's tables name it."""
    pertub = f" + IP {row['input_pertub']:g}" if row["input_pertub"] else ""
    return f"{of(row['objective'])}{row['gradient']}{pertub}{plus(row['average'])}"


def quality(summary: list[dict], distance: str, floor: dict | None, seconds: str, n: int) -> Rows:
    """The paper's main table, and what its rows cost, by the column `seconds`. Beside each distance
    its limit for endless samples; last, the floor: n real images."""
    columns, header = distances(summary[0]), ["", "seeds"]
    for c in columns:
        how = way(summary, c)
        header += [f"{distance}, {how}", f"{how}, endless samples"]
    more = ["copies"] if "copies" in summary[0] else []
    best = {c: min((r[c] for r in summary if r[c] is not None), default=None) for c in columns}
    header += [COPIES for _ in more]
    rows = [[*header, "images, thousands", seconds.replace("_", " ")]]
    for row in summary:
        cells = [label(row), str(row["seeds"])]
        for c in columns:
            text = told(row, c)
            cells.append(f"**{text}**" if text and row[c] == best[c] else text)
            cells.append(told(row, f"{c}_infinity"))
        cells += [told(row, name) for name in more]
        rows.append([*cells, f"{row['images'] / 1000:.4g}", told(row, seconds)])
    if floor:
        limits = [with_error(*mean_and_half(floor[k])) for k in ("values", "infinities")]
        rows.append([f"{n} {REAL}", "", *limits * len(columns), *("" for _ in more), "", ""])
    return rows


def less(summary: list[dict], rows: list[dict], titles: dict[str, str]) -> Rows:
    """Each kind less another, by the columns of `titles`: the mean over seeds of the paired
    differences with its interval, ties told as such, and in brackets the smallest difference that
    could have been seen. That other is the first gradient with all else alike, or the first kind of
    the objective."""
    found = [["", "less", *titles.values()]]
    for row in summary:
        first = next(r for r in summary if r["objective"] == row["objective"])
        alike = {k: row[k] for k in ("objective", "input_pertub", "average")}
        base = next(r for r in summary if r.items() >= alike.items())
        base = first if base is row else base
        if base is not row:
            a, b = ({k: side[k] for k in KIND} for side in (row, base))
            differences = [paired(rows, a, b, column) for column in titles]
            found.append([label(row), label(base), *map(_told_difference, differences)])
    return found


def along(summary: list[dict], rows: list[dict]) -> Rows:
    """Each kind's distance by the step of its checkpoints, and what the last has less than the one
    before, paired by seed; the header alone where none but the last were sampled."""
    kinds = [(row, steps_of(row)) for row in summary]
    kinds = [(row, at) for row, at in kinds if at]
    steps = sorted({step for _, at in kinds for step in at})
    found = [["", *(f"{step} steps" for step in steps), "the last, less the one before"]]
    for row, at in kinds:
        before, last = list(at.values())[-2:]
        own = [r for r in rows if all(r[k] == row[k] for k in KIND)]
        differences = [r[last] - r[before] for r in own if None not in (r[last], r[before])]
        cells = [told(row, at[step]) if step in at else "" for step in steps]
        found.append([label(row), *cells, _told_difference(differences)])
    return found


def _told_difference(differences: list[float]) -> str:
    if len(differences) < 2:
        return f"{differences[0]:+.3g} (one seed: none)" if differences else ""
    found = mean_of(differences)
    verdict = power.HIGHER if found.low > 0 else power.LOWER if found.high < 0 else power.TIE
    sign = "+" if found.value > 0 else ""
    told = with_error(found.value, (found.high - found.low) / 2)
    return f"{sign}{told}: {verdict} ({found.seen:.2g})"


def way(summary: list[dict], column: str) -> str:
    """How the samples of a distance came about: steps, sampler, and network calls where these are
    not the steps."""
    steps, _, sampler = column.removeprefix("fd_").partition("_")
    calls = sorted({row[f"calls_{column[3:]}"] for row in summary if f"calls_{column[3:]}" in row})
    told = f"{steps} steps" + (f" of {sampler}" if sampler else "")
    many = " to ".join(f"{n:g}" for n in dict.fromkeys((calls[0], calls[-1]))) if calls else steps
    return told if many == steps else f"{told} ({many} calls)"


def way_of_grid(cell: str) -> str:
    """Bits, or the sampler that is not the first, of a cell of samples."""
    way = cell.split("_", 2)[2:]
    bits = int(way[0][1:]) if way and way[0][1:].isdigit() else 32
    return f"{bits} bits" + (f", {way[0]}" if way and bits == 32 else "")


def told(row: dict, name: str) -> str:
    return with_error(row[name], row[f"{name}_half"])


def titles_of(verb: str, more: dict[str, str]) -> dict[str, str]:
    """The titles of what the measures of one command say by column, and `more`."""
    return {k: column.title for k, column in columns_of(verb).items() if column.title} | more


def measured(summary: list[dict], verb: str, more: dict[str, str]) -> Rows:
    """What the measures of one command say, and `more` columns by their titles."""
    titles = titles_of(verb, more)
    rows = [[label(row), *(told(row, name) for name in titles)] for row in summary]
    return [["", *titles.values()], *rows]


def claims(verdicts: list[Verdict]) -> Rows:
    """The verdicts, a row each."""
    header = ["claim", "verdict", "after Holm", "difference", "95 % interval", "p"]
    rows = [[*header, "smallest effect it would find", "seeds", "where"]]
    for v in verdicts:
        correlation = v.column == "r"
        interval = "" if v.low is None else f"{v.low:.3g} to {v.high:.3g}"
        estimate = f"r = {v.estimate:.2f}" if correlation else f"{v.estimate:+.3g}"
        seen = "" if v.seen is None else f"r = {v.seen:.2f}" if correlation else f"{v.seen:.2g}"
        p = "" if v.p is None else f"{v.p:.2g}"
        n = f"{v.n} kinds" if correlation else str(v.n)
        why = f": {v.why}" if v.why else ""
        rows.append([v.text, v.verdict + why, v.holm, estimate, interval, p, seen, n, v.place])
    return rows
