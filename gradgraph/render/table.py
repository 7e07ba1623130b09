"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence

from gradgraph.render.lines import shorten

__all__ = ["table"]


def table(
    rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int = 100, give: int = 0, indent: str = ""
) -> list[str]:
    """Rows as aligned lines of at most `width` characters, if the column `give` can be cut that far.

    Args:
        rows: texts, all rows of one length.
        right: the columns that are set flush right, numbers.
        width: characters of a line.
        indent: what each line begins with.
        give: the column that is cut where lines are too long; never below 12 characters.
    """
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    excess = len(indent) + sum(widths) + 2 * (len(widths) - 1) - width
    if excess > 0:
        widths[give] = max(min(widths[give], 12), widths[give] - excess)
    return [
        indent
        + "  ".join(
            (cell.rjust if column in right else cell.ljust)(widths[column])
            for column, cell in enumerate(shorten(cell, max(widths[place], 1)) for place, cell in enumerate(row))
        ).rstrip()
        for row in rows
    ]
