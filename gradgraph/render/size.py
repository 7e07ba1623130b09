"""Whether a graph can be laid out in reasonable time, told before trying.

Graphviz's `dot` puts every node on a rank, and gives an edge that passes over ranks a place on each of them. Time
follows the number of places, boxes and those: measured with both engines, 2,000 boxes without long edges take 2 s,
4,000 places 4 s, 7,500 take 7 to 34 s, 10,000 over a minute. The default limits leave room for slower machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx

from gradgraph.errors import InputError, RenderError

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph

__all__ = ["MAX_BOXES", "check_size", "count_boxes", "count_passes"]

#: Boxes that are drawn at most, unless more is asked for.
MAX_BOXES = 2500

_PLACES_PER_BOX = 2  # how many places are laid out at most, for each box of the limit

_ADVICE = (
    "Write .dot or .json instead, which have no limit; trace an intermediate result rather than the whole program; "
    "draw a part, graph.subgraph(keys).render(...); or raise max_boxes= and timeout=."
)


def check_size(graph: AutogradGraph, max_boxes: int) -> None:
    """Refuse a graph that would not be drawn in time. Linear in nodes and edges.

    Raises:
        InputError: `max_boxes` is no positive number.
        RenderError: the graph is too large, or too tangled.
    """
    if max_boxes < 1:
        raise InputError(f"max_boxes={max_boxes!r} is no limit: expected a positive number.")
    boxes = count_boxes(graph)
    if boxes > max_boxes:
        raise RenderError(
            f"the graph is too large to lay out: {boxes:,} boxes, and at most max_boxes={max_boxes:,} are drawn. "
            f"{_ADVICE}"
        )
    places = boxes + count_passes(graph)
    if places > _PLACES_PER_BOX * max_boxes:
        raise RenderError(
            f"the graph is too tangled to lay out: {boxes:,} boxes, and long edges that need {places - boxes:,} places "
            f"between them; at most {_PLACES_PER_BOX * max_boxes:,} places in all are laid out with "
            f"max_boxes={max_boxes:,}. {_ADVICE}"
        )


def count_boxes(graph: AutogradGraph) -> int:
    """How many boxes the picture has: one an operation, one for each use of a leaf."""
    is_leaf: dict[int, bool] = {key: data.get("kind") == "leaf" for key, data in graph.nodes(data=True)}
    uses = sum(is_leaf[child] for key in graph for child in graph.successors(key))
    return uses + sum(not leaf or graph.in_degree(key) == 0 for key, leaf in is_leaf.items())


def count_passes(graph: AutogradGraph) -> int:
    """How many times an edge passes over a rank, each node standing as low as its successors let it."""
    try:
        order = list(nx.topological_sort(graph))
    except nx.NetworkXUnfeasible:  # no autograd graph, yet drawable
        return 0
    inner: dict[int, list[int]] = {
        # Leaves stand beside each of their uses.
        key: [child for child in graph.successors(key) if graph.nodes[child].get("kind") != "leaf"]
        for key in order
    }
    depth = dict.fromkeys(order, 0)
    for key in order:
        for child in inner[key]:
            depth[child] = max(depth[child], depth[key] + 1)
    rank: dict[int, int] = {}
    for key in reversed(order):
        rank[key] = min((rank[child] - 1 for child in inner[key]), default=depth[key])
    return sum(rank[child] - rank[key] - 1 for key in order for child in inner[key])
