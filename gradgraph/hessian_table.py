"""The Hessian's diagonal of each leaf, as a table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradgraph.curvature_table import CurvatureTable
from gradgraph.graph import AutogradGraph
from gradgraph.render.lines import format_number, format_shape
from gradgraph.render.table import table

__all__ = ["HessianTable", "hessian_table"]

_FIGURES = ("min", "mean", "max")
_COLUMNS = ("leaf", "shape", *_FIGURES, "negative", "NaN", "stderr", "method", "passes", "why")
_WORDS = ("leaf", "shape", "method", "why")


@dataclass(frozen=True)
class HessianTable:
    """One row a leaf, in the graph's order, and the operations that the trace comes from, where they are known."""

    rows: tuple[dict[str, Any], ...]
    curvature: CurvatureTable | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: `leaves`, a list of `name`, `shape`, `reached` and the figures; and `curvature`."""
        leaves = {"leaves": [dict(row) for row in self.rows]}
        return leaves if self.curvature is None else {**leaves, "curvature": self.curvature.to_dict()}

    def to_text(self, width: int = 100) -> str:
        """A table for a terminal of `width` columns: range, mean, share of negative entries, method, and why."""
        reasons = list(dict.fromkeys(filter(None, map(_reason, self.rows))))
        cells = [_cells(row, reasons) for row in self.rows]
        # A saved graph tells no passes, an exact diagonal has no errors, and most have no NaN.
        columns = [name for name in _COLUMNS if any(row[name] for row in cells)]
        rows = [columns, *([row[name] for name in columns] for row in cells)]
        right = [place for place, name in enumerate(columns) if name not in _WORDS]
        parts = ["\n".join(table(rows, right=right, width=width))]
        if reasons:
            parts.append("\n".join(_noted(number, reason, width) for number, reason in enumerate(reasons, 1)))
        if self.curvature is not None:
            parts.append(self.curvature.to_text(width))
        return "\n\n".join(parts)


def hessian_table(
    graph: AutogradGraph,
    details: Mapping[str, Mapping[str, Any]] | None = None,
    curvature: CurvatureTable | None = None,
) -> HessianTable:
    """The table of what `annotate(graph, "hessian_diagonal", ...)` has written.

    Args:
        graph: the graph.
        details: by leaf, more figures for its row: `passes`, `chunk`, `reason`, `seconds`, `nan`.
        curvature: what to show below.
    """
    rows = []
    for key, name in graph.leaves().items():
        data = graph.nodes[key]
        diagonal = data["hessian_diagonal"]
        shape = data["outputs"][0]["shape"] if data["outputs"] else None
        row = {"name": name, "shape": shape, "reached": diagonal is not None, **(diagonal or {})}
        if diagonal is not None:
            count = math.prod(shape or ())
            row["negative_share"] = row["negative"] / count if count else None
            row |= (details or {}).get(name, {})
        rows.append(row)
    return HessianTable(tuple(rows), curvature)


def _reason(row: Mapping[str, Any]) -> str:
    """Why a leaf's part was computed as it was, in words."""
    return str(row.get("reason") or "") if row["reached"] else "the loss does not reach it"


def _noted(number: int, reason: str, width: int) -> str:
    """A reason below the table, where there is room for it: rows have its number."""
    mark = f"[{number}] "
    return textwrap.fill(reason, width, initial_indent=mark, subsequent_indent=" " * len(mark))


def _cells(row: Mapping[str, Any], reasons: Sequence[str]) -> dict[str, str]:
    reason = _reason(row)
    share, nan, error, passes = (row.get(name) for name in ("negative_share", "nan", "stderr", "passes"))
    return {
        "leaf": row["name"],
        "shape": format_shape(row["shape"]),
        **{name: "-" if row.get(name) is None else format_number(row[name]) for name in _FIGURES},
        "negative": "-" if share is None else f"{100 * share:.3g} %",
        "NaN": f"{nan:,}" if nan else "",
        "stderr": "" if error is None else format_number(error),
        "method": str(row.get("method", "")),
        "passes": "" if passes is None else f"{passes:,}",
        "why": f"[{reasons.index(reason) + 1}]" if reason else "",
    }
