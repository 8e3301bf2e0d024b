"""Tables of text, for a terminal and as Markdown. A table is its header and its rows of cells."""

from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def table(rows: Rows) -> str:
    """Aligned text: the first column stands to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    )


def markdown(rows: Rows) -> str:
    """The same table in Markdown; the first row is its header."""
    header, *others = rows
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
