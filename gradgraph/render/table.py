"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence

from gradgraph.render.lines import shorten

__all__ = ["table"]

_LEAST = 8  # characters that a column keeps


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int = 100, indent: str = "") -> list[str]:
    """Rows as aligned lines of at most `width` characters; where they are longer, the widest columns are cut.

    Args:
        rows: texts, all rows of one length.
        right: the columns that are set flush right, numbers.
        width: characters of a line.
        indent: what each line begins with.
    """
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    excess = len(indent) + sum(widths) + 2 * (len(widths) - 1) - width
    while excess > 0 and max(widths) > _LEAST:
        widest = widths.index(max(widths))
        # Down to the next one at once, then both together.
        step = min(excess, max(1, widths[widest] - sorted(widths)[-2] if len(widths) > 1 else excess))
        step = min(step, widths[widest] - _LEAST)
        widths[widest] -= step
        excess -= step
    lines = []
    for row in rows:
        cells = [shorten(cell, max(room, 1)) for cell, room in zip(row, widths, strict=True)]
        set_out = [
            cell.rjust(room) if column in right else cell.ljust(room)
            for column, (cell, room) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append((indent + "  ".join(set_out)).rstrip())
    return lines
