"""Whether a graph can be laid out in reasonable time, told before trying."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradgraph.errors import RenderError

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph

__all__ = ["check_size", "count_boxes"]


def count_boxes(graph: AutogradGraph) -> int:
    """How many boxes the picture has: one an operation, one for each use of a leaf."""
    is_leaf: dict[int, bool] = {key: data.get("kind") == "leaf" for key, data in graph.nodes(data=True)}
    uses = sum(is_leaf[child] for key in graph for child in graph.successors(key))
    return uses + sum(not leaf or graph.in_degree(key) == 0 for key, leaf in is_leaf.items())


def check_size(graph: AutogradGraph, max_boxes: int) -> None:
    """Refuse a graph that would not be drawn in time.

    Raises:
        RenderError: it is too large.
    """
    boxes = count_boxes(graph)
    if boxes > max_boxes:
        raise RenderError(
            f"the graph is too large to lay out: {boxes} boxes, and at most {max_boxes} are drawn. Write .dot or .json "
            "instead; trace a smaller part of the program; draw a part with graph.subgraph(keys); or raise max_boxes."
        )
