"""The derivative order of each node, and which edges carry curvature.

Order 0 is the forward, order k what was made while differentiating order k - 1, and any ordinary operation applied to
results of order k. Three things prove an order, from the surest to the weakest: a recorded backward pass that made
the node, the outputs of lower order that the caller names, and an operation's own name (`TanhBackwardBackward0`
differentiates a backward). With none of them every node is order 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from torch import Tensor
from torch.autograd.graph import Node

from gradgraph.saved import saved_values
from gradgraph.walk import Walk

__all__ = ["curvature_edges", "orders_of"]


def orders_of(walk: Walk, lower: Sequence[Sequence[int]], recorded: Mapping[int, int]) -> dict[int, int]:
    """Order of every node above 0, by key.

    `lower` holds the root keys of each lower order, `recorded` the orders that recorded passes prove.
    """
    if lower:
        reached = _reached(walk, lower)
        return {key: order for key in range(len(walk.nodes)) if (order := reached.get(key, len(lower)))}
    proven = {kind: order for kind in set(map(type, walk.nodes)) if (order := _proven_by_name(kind))}
    least = {key: proven[type(fn)] for key, fn in enumerate(walk.nodes) if type(fn) in proven} if proven else {}
    for key, order in recorded.items():
        least[key] = max(least.get(key, 0), order)
    return _spread(walk, least) if least else {}


def _reached(walk: Walk, lower: Sequence[Sequence[int]]) -> dict[int, int]:
    """Every node that `lower[k]` reaches and no earlier entry does, with k."""
    reached: dict[int, int] = {}
    for order, roots in enumerate(lower):
        stack = list(roots)
        while stack:
            key = stack.pop()
            if key not in reached:
                reached[key] = order
                stack += walk.below(key)
    return reached


def _proven_by_name(kind: type) -> int:
    """`TanhBackwardBackward0` was made by differentiating a `TanhBackward0`, so it is of order 1 at least."""
    return max(0, kind.__name__.count("Backward") - 1)


def _spread(walk: Walk, least: dict[int, int]) -> dict[int, int]:
    """The orders that follow from `least`: what consumes a result of order k is of order k at least."""
    consumers: list[list[int]] = [[] for _ in walk.nodes]
    for u, v in zip(walk.source, walk.target, strict=True):
        consumers[v].append(u)
    orders = dict(least)
    stack = sorted(least, key=lambda key: least[key])
    while stack:
        v = stack.pop()  # highest first: a node is seldom raised twice
        for u in consumers[v]:
            if orders.get(u, 0) < orders[v]:
                orders[u] = orders[v]
                stack.append(u)
    return orders


def curvature_edges(
    walk: Walk, count: int, orders: dict[int, int], created: Mapping[int, bool], leaves: dict[int, Tensor]
) -> set[int]:
    """Positions of the curvature edges of the first `count` nodes: from order k + 1 to <= k, through a saved tensor.

    `created` says of recorded nodes whether a node's backward made them. If so, their edges down are those, since all
    else that they take is a gradient of their own order; if not, none is. Of other nodes an edge down counts if
    something of lower order saved the output that it leads to: an ordinary operation's (`loss + penalty`) mostly
    leads to one that nothing saved. Where a pack hook or a finished backward hides what was saved, each counts.
    """
    if not orders:
        return set()
    height = [orders.get(key, 0) for key in range(len(walk.nodes))]
    edges = enumerate(islice(zip(walk.source, walk.target, strict=True), walk.start[count]))
    down = [(position, u, v) for position, (u, v) in edges if height[u] > height[v]]
    sure = {position for position, u, _ in down if created.get(u, False)}
    open_edges = [(position, u, v) for position, u, v in down if u not in created]
    return sure | _through_saved(walk, open_edges, height, leaves) if open_edges else sure


def _through_saved(
    walk: Walk, down: Sequence[tuple[int, int, int]], height: Sequence[int], leaves: dict[int, Tensor]
) -> set[int]:
    """The positions of those edges that lead to an output that a node of lower order saved."""
    # Who may have saved the output of v: v itself, and whatever of lower order consumes it.
    below = {v for _, _, v in down}
    highest = max(height)
    pairs = zip(walk.source, walk.target, strict=True)
    savers = below | {u for u, v in pairs if v in below and height[u] < highest}
    outputs_saved: set[tuple[Node, int]] = set()
    leaves_saved: set[int] = set()
    for key in savers:
        for value in saved_values(walk.nodes[key]):
            if value.data is None:
                return {position for position, _, _ in down}
            if value.data.grad_fn is not None:
                outputs_saved.add((value.data.grad_fn, value.data.output_nr))
            elif value.data.requires_grad:
                leaves_saved.add(id(value.data))
    return {
        position
        for position, _, v in down
        if (walk.nodes[v], walk.output_nr[position]) in outputs_saved or (v in leaves and id(leaves[v]) in leaves_saved)
    }
