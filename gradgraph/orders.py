"""The derivative order of each node, and which edges carry curvature.

Order 0 is the forward, order k what was made while differentiating order k - 1, and any ordinary operation applied to
results of order k. Three things prove an order, from the surest to the weakest: an interval of sequence numbers that
a backward pass is known to have used, the outputs of lower order that the caller names, and an operation's own name
(`TanhBackwardBackward0` differentiates a backward). With none of them every node is order 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from gradgraph.saved import saved_values

__all__ = ["Made", "orders_of", "roles_of"]

_Edge = tuple[int, int, int, int]


class Made(NamedTuple):
    """A backward pass over nodes of order `order - 1` made the nodes numbered `first` to `last` (exclusive).

    The numbers are those of `torch._C._autograd._get_sequence_nr()` on the thread that made the nodes.
    """

    first: int
    last: int
    order: int


def orders_of(
    nodes: Sequence[Node], edges: Sequence[_Edge], lower: Sequence[Sequence[GradientEdge]], made: Sequence[Made]
) -> tuple[dict[int, int], set[int]]:
    """Order of every node above 0, by key, and the keys whose order a recorded interval proves."""
    if lower:
        reached = _reached(lower)
        orders = {key: reached.get(fn, len(lower)) for key, fn in enumerate(nodes)}
        return {key: order for key, order in orders.items() if order}, set()
    least = {key: order for key, fn in enumerate(nodes) if (order := _proven_by_name(fn))}
    for key, fn in enumerate(nodes) if made else ():
        number = fn._sequence_nr()
        for interval in made:
            if interval.first <= number < interval.last:
                least[key] = max(least.get(key, 0), interval.order)
    if not least:
        return {}, set(range(len(nodes))) if made else set()
    return _spread(len(nodes), edges, least), set(range(len(nodes))) if made else set()


def _reached(lower: Sequence[Sequence[GradientEdge]]) -> dict[Node, int]:
    """Every node that `lower[k]` reaches and no earlier entry does, with k."""
    reached: dict[Node, int] = {}
    for order, edges in enumerate(lower):
        stack = [edge.node for edge in edges]
        while stack:
            fn = stack.pop()
            if fn not in reached:
                reached[fn] = order
                stack.extend(child for child, _ in fn.next_functions if child is not None)
    return reached


def _proven_by_name(fn: Node) -> int:
    """`TanhBackwardBackward0` was made by differentiating a `TanhBackward0`, so it is of order 1 at least."""
    return max(0, type(fn).__name__.count("Backward") - 1)


def _spread(count: int, edges: Sequence[_Edge], least: dict[int, int]) -> dict[int, int]:
    """The orders that follow from `least`: what consumes a result of order k is of order k at least."""
    consumers: list[list[int]] = [[] for _ in range(count)]
    for u, v, _, _ in edges:
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


def roles_of(
    nodes: Sequence[Node],
    edges: Sequence[_Edge],
    orders: dict[int, int],
    lower: Sequence[Sequence[GradientEdge]],
    leaves: dict[int, Tensor],
) -> set[int]:
    """Positions in `edges` of the curvature edges: from order k + 1 back to order <= k through a saved tensor.

    An edge down to an output that nothing of lower order saved is an ordinary operation's (`loss + penalty`), and
    carries no curvature. Where a pack hook or a finished backward hides what was saved, every edge down counts.
    """
    down = [position for position, (u, v, _, _) in enumerate(edges) if orders.get(u, 0) > orders.get(v, 0)]
    if not down:
        return set()
    highest = max(orders.values())
    savers = {fn for key, fn in enumerate(nodes) if orders.get(key, 0) < highest}
    savers.update(_reached(lower))  # a loss is often no part of the graph of its own gradient
    outputs_saved: set[tuple[Node, int]] = set()
    leaves_saved: set[int] = set()
    for fn in savers:
        for value in saved_values(fn):
            if value.data is None:
                return set(down)
            if value.data.grad_fn is not None:
                outputs_saved.add((value.data.grad_fn, value.data.output_nr))
            elif value.data.requires_grad:
                leaves_saved.add(id(value.data))
    return {
        position
        for position in down
        for u, v, _, output_nr in [edges[position]]
        if (nodes[v], output_nr) in outputs_saved or (v in leaves and id(leaves[v]) in leaves_saved)
    }
