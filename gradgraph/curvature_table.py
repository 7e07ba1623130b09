"""The operations that curvature comes from, as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gradgraph.graph import AutogradGraph
from gradgraph.render.lines import file_line, format_number
from gradgraph.render.shares import curvature_words
from gradgraph.render.table import table
from gradgraph.shares import about_curvature, format_share, share_of, shares_words, total_of

__all__ = ["CurvatureTable", "curvature_table"]

_COLUMNS = ("curvature", "share", "operation", "node", "module", "line")


@dataclass(frozen=True)
class CurvatureTable:
    """The operations that contribute the most, and what all of them sum to.

    Attributes:
        about: the graph attribute `curvature`: `of`, `total`, `magnitude` (the sum of the magnitudes of all
            contributions), and where known `gauss_newton`, `residual`, `stderr`.
        rows: the largest contributions, by size, of operations that contribute.
        rest: how many contribute beyond those.
        rest_sum: the sum of what those contribute.
        without: how many operations contribute nothing.
    """

    about: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    rest: int
    rest_sum: float
    without: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: what `about` says, and `operations`, a list of `node`, `op`, `module`, `source`, ...

        The `share` of an operation is its `curvature` as a portion of `magnitude`.
        """
        more = {"count": self.rest, "curvature": self.rest_sum, "without": self.without}
        return {**self.about, "operations": list(self.rows), "more": more}

    def to_text(self, width: int = 100) -> str:
        """A heading with the total, and a table for a terminal of `width` columns."""
        lines = [curvature_words(self.about)]
        if self.rows:
            cells = [_COLUMNS, *(_cells(row) for row in self.rows)]
            # A program that was not recorded has neither modules nor lines.
            shown = [place for place in range(len(_COLUMNS)) if place < 4 or any(row[place] for row in cells[1:])]
            kept = [[row[place] for place in shown] for row in cells]
            lines += table(kept, right=[0, 1, 3], width=width)
        if self.rest:
            lines.append(f"… and {self.rest:,} more: {format_number(self.rest_sum, sign=True)}")
        if self.without:
            lines.append(f"{self.without:,} {'operation adds' if self.without == 1 else 'operations add'} nothing")
        words = shares_words(self.about.get("total"), self.about.get("magnitude"))
        if words and self.rows:
            lines.append(words)
        return "\n".join(lines)


def curvature_table(graph: AutogradGraph, top: int) -> CurvatureTable | None:
    """The `top` operations by the node attribute `curvature`; None where no node carries it."""
    found = {key: float(data["curvature"]) for key, data in graph.nodes.items() if data.get("curvature") is not None}
    if not found:
        return None
    about = about_curvature(graph.nodes.values(), graph.graph) or {}
    contributing = [key for key, value in found.items() if value]  # NaN contributes
    contributing.sort(key=lambda key: (not math.isnan(found[key]), -abs(found[key]), key))
    rest = [found[key] for key in contributing[top:]]
    rows = tuple(_row(graph, key, found[key], about["magnitude"]) for key in contributing[:top])
    return CurvatureTable(about, rows, len(rest), total_of(rest), len(found) - len(contributing))


def _row(graph: AutogradGraph, key: int, value: float, magnitude: float | None) -> dict[str, Any]:
    data = graph.nodes[key]
    return {
        "node": key,
        **{name: data[name] for name in ("op", "module", "source")},
        "curvature": value,
        "share": share_of(value, magnitude),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    share = "-" if row["share"] is None else format_share(row["share"])
    figure = format_number(row["curvature"], sign=True)
    return figure, share, str(row["op"]), str(row["node"]), row["module"] or "", file_line(row["source"] or "")
