"""The Hessian's diagonal of each leaf, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradgraph.graph import AutogradGraph
from gradgraph.render.lines import format_number, format_shape
from gradgraph.render.table import table

__all__ = ["HessianTable", "hessian_table"]

_COLUMNS = ("leaf", "shape", "mean", "min", "max", "negative", "zeros", "method")


@dataclass(frozen=True)
class HessianTable:
    """One row a leaf, in the graph's order: name, shape, whether the loss reaches it, and the diagonal's statistics."""

    rows: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: `leaves`, a list of `name`, `shape`, `reached` and the statistics."""
        return {
            "leaves": [
                {**{name: row[name] for name in ("name", "shape", "reached")}, **row["diagonal"]} for row in self.rows
            ]
        }

    def to_text(self, width: int = 100) -> str:
        """A table for a terminal of `width` columns: mean, least and largest entry, how many are negative and zero."""
        rows = [_COLUMNS, *(_cells(row) for row in self.rows)]
        return "\n".join(table(rows, right=range(2, len(_COLUMNS) - 1), width=width))


def hessian_table(graph: AutogradGraph) -> HessianTable:
    """The table of what `annotate(graph, "hessian_diagonal", ...)` has written."""
    rows = []
    for key, name in graph.leaves().items():
        data = graph.nodes[key]
        diagonal = data["hessian_diagonal"]
        shape = data["outputs"][0]["shape"] if data["outputs"] else None
        rows.append({"name": name, "shape": shape, "reached": diagonal is not None, "diagonal": diagonal or {}})
    return HessianTable(tuple(rows))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    diagonal = row["diagonal"]
    shape = format_shape(row["shape"])
    if not row["reached"]:
        return (row["name"], shape, "-", "-", "-", "-", "-", "not reached by the loss")
    figures = (_figure(diagonal.get(column)) for column in ("mean", "min", "max", "negative", "zeros"))
    return (row["name"], shape, *figures, str(diagonal.get("method")))


def _figure(value: Any) -> str:
    return "-" if value is None else format_number(value)
