"""What compares across the objectives of a study: distances, and the error of the image by log-SNR.

A loss as trained is of noise, velocity or image, each over noise levels of its own, and compares
within an objective alone. `x_mse`, the squared error of the image that the output implies, at a
log-SNR, is the same question to all of them.
"""

import itertools

from matplotlib.figure import Figure

from ..report.text import Rows, markdown
from . import claims, pictures, tables
from .claims import Claim, Verdict, by_objective, plus
from .rows import LEVELS, WHOLE, distances, of_levels

ACROSS = "across objectives"  # the place of these claims
LOWER = ": lower "
OUTCOME = {claims.HOLDS: "lower", claims.FAILS: "higher", claims.UNDECIDED: "undecided"}
TITLES = {  # of X_MSE
    "x_mse": "x_mse at w",
    "x_rise": "LPF rise of x_mse",
    "x_rise_filter": "LPF rise of x_mse, filter units",
}
WITHIN = "Losses as trained compare within an objective alone: see Across objectives."
WHY = (
    "A loss as trained is of noise, velocity or image, and over noise levels of each objective's "
    "own: it, and its rises, eigenvalues and norms above, compare within an objective alone. "
    "Across them compare the distances, at equal network calls, and x_mse: the squared error of "
    "the image that the output implies, averaged evenly over log-SNR from -8 to 8, where every "
    "objective has noise levels. A squared error of predicted noise is exp(-log-SNR) times as "
    "large in the image, so that much noise may rule the mean: read it by part. The weights of all "
    "are moved by the same noise; in filter units, in proportion to each filter's length."
)


SHORT = (
    "Each objective against the first, at 95 %, each for itself (the claims' table has intervals, "
    "and Holm's correction):"
)


def verdicts(rows: list[dict]) -> list[Verdict]:
    """Judges each objective against the first, a family of its own; [] for one objective."""
    found = [claims.judge(claim, rows) for claim in claims_of(rows)]
    return claims.corrected([verdict for verdict in found if verdict])


def claims_of(rows: list[dict]) -> list[Claim]:
    """Makes the claims, of the first gradient and the least input perturbation."""
    if not rows:
        return []
    least = min(row["input_pertub"] for row in rows)
    columns = {c: f"distance in {tables.way(rows, c)}" for c in distances(rows[0])}
    parts = zip(of_levels("x_mse")[1:], LEVELS)
    columns |= TITLES | {column: f"x_mse at {levels}" for column, levels in parts}
    first, *others = by_objective(rows)
    averages = dict.fromkeys(row["average"] for row in rows)
    found = []
    for other, average, (column, told) in itertools.product(others, averages, columns.items()):
        base = {"gradient": rows[0]["gradient"], "input_pertub": least, "average": average}
        a, b = (base | {"objective": name} for name in (other, first))
        text = f"{other}{plus(average)} against {first}{plus(average)}{LOWER}{told}"
        found.append(Claim(text, ACROSS, column, a, b))
    return found


def short(found: list[Verdict]) -> list[str]:
    """Each objective against the first, in a sentence."""
    sides = {}
    for v in (v for v in found if v.place == ACROSS):
        against, _, what = v.text.partition(LOWER)
        sides.setdefault(against, {}).setdefault(OUTCOME[v.verdict], []).append(what)
    found = []
    for against, known in sides.items():
        told = (f"{side}: {', '.join(what)}" for side, what in known.items())
        found.append(f"{against}: {'; '.join(told)}")
    return found


def section(summary: list[dict]) -> list[str]:
    """The parts of the report's section, in Markdown."""
    parts = ["## Across objectives", WHY]
    for title, table in by_level(summary).items():
        parts += [f"{title}, by log-SNR:", markdown(table)]
    return parts


def figures(report) -> dict[str, tuple[Figure, str]]:
    """Gives by name the pictures of a `report.Report`, and their captions."""
    first = report.settings["flags"]["study"]["sampler"].split(",")[0] or "its own sampler"
    of = report.models, report.summary
    told = (
        "The error of the image by log-SNR, and its rise where weights are moved, unless that is "
        "below 0; bars: 95 %."
    )
    calls = "Distances by network calls; grey: real images; bars: 95 %."
    return {
        "log_snr": (pictures.by_level(*of, TITLES), told),
        "calls": (pictures.by_calls(*of, report.distance, first), calls),
    }


def by_level(summary: list[dict]) -> dict[str, Rows]:
    """Gives the tables by title: the error of the image and its rises, over all of log-SNR and by
    part."""
    header = ["", WHOLE, *LEVELS]
    return {
        title: [header]
        + [[tables.label(r), *(tables.told(r, c) for c in of_levels(name))] for r in summary]
        for name, title in TITLES.items()
    }
