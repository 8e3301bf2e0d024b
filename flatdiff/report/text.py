"""Tables of text, for a terminal and as Markdown. A table is its header and its rows of cells."""

import math
from collections.abc import Collection, Iterable, Sequence

Rows = Sequence[Sequence[str]]


def table(rows: Rows) -> str:
    """Aligned text: the first column stands to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    )


def markdown(rows: Rows, left: Collection[int] = (0,)) -> str:
    """The same table in Markdown; its first row is the header. `left`: the columns to the left."""
    header, *others = rows
    rules = ["---" if i in left else "---:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rules, *others])


def bullets(texts: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {text}" for text in texts)


def with_error(mean: float | None, error: float | None) -> str:
    """A mean ± half of its interval: two digits of the latter, as many decimals of the former."""
    if mean is None:
        return ""
    if not error:
        return f"{mean:.4g}"
    if not 1e-7 < error < 1e4:
        return f"{mean:.3g} ± {error:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"
