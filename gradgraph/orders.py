"""The derivative order of each node, and which edges carry curvature.

Order 0 is the forward, order k what was made while differentiating order k - 1, and any ordinary operation applied to
results of order k. Three things prove an order, from the surest to the weakest: an interval of sequence numbers that
a backward pass is known to have used, the outputs of lower order that the caller names, and an operation's own name
(`TanhBackwardBackward0` differentiates a backward). With none of them every node is order 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import Node

from gradgraph.saved import saved_values
from gradgraph.walk import Walk

__all__ = ["Made", "curvature_edges", "orders_of"]


class Made(NamedTuple):
    """A backward pass over nodes of order `order - 1` made the nodes numbered `first` to `last` (exclusive).

    The numbers are those of `torch._C._autograd._get_sequence_nr()` on the thread that made the nodes.
    """

    first: int
    last: int
    order: int


def orders_of(
    walk: Walk, lower: Sequence[Sequence[int]], made: Sequence[Made]
) -> tuple[dict[int, int], set[int] | None]:
    """Order of every node above 0, by key, and the keys that recorded passes made; None where none were recorded.

    `lower` holds the root keys of each lower order; `made` is sorted and no two of its intervals overlap.
    """
    if lower:
        reached = _reached(walk, lower)
        return {key: order for key in range(len(walk.nodes)) if (order := reached.get(key, len(lower)))}, None
    proven = {kind: _proven_by_name(kind) for kind in set(map(type, walk.nodes))}
    least = {key: order for key, fn in enumerate(walk.nodes) if (order := proven[type(fn)])}
    starts = [interval.first for interval in made]
    created: set[int] = set()
    for key, fn in enumerate(walk.nodes) if made else ():
        number = fn._sequence_nr()
        place = bisect_right(starts, number) - 1
        if place >= 0 and number < made[place].last:
            created.add(key)
            least[key] = max(least.get(key, 0), made[place].order)
    return _spread(walk, least) if least else {}, created if made else None


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
    walk: Walk, count: int, orders: dict[int, int], created: set[int] | None, leaves: dict[int, Tensor]
) -> set[int]:
    """Positions of the curvature edges of the first `count` nodes: from order k + 1 to <= k, through a saved tensor.

    Where it is recorded which nodes a backward pass created, their edges down are those: all else that such a node
    takes is a gradient of its own order. Else an edge down counts if something of lower order saved the output that
    it leads to: an ordinary operation's (`loss + penalty`) mostly leads to one that nothing saved. Where a pack hook
    or a finished backward hides what was saved, every edge down counts.
    """
    if not orders:
        return set()
    height = [orders.get(key, 0) for key in range(len(walk.nodes))]
    edges = enumerate(islice(zip(walk.source, walk.target, strict=True), walk.start[count]))
    down = [(position, u, v) for position, (u, v) in edges if height[u] > height[v]]
    if created is not None:
        return {position for position, u, _ in down if u in created}
    if not down:
        return set()
    # Who may have saved the output of v: v itself, and whatever of lower order consumes it.
    below = {v for _, _, v in down}
    highest = max(orders.values())
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
