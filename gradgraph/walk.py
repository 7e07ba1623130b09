"""The walk of `next_functions` itself: nodes in discovery order, edges in compact columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

__all__ = ["Walk", "edge_of", "made_within"]


def edge_of(tensor: Tensor) -> GradientEdge:
    """Where the gradient of a tensor arrives.

    Torch finds the end of a leaf through a view of it. A subclass may answer that by an operation of its own, which
    has another end.
    """
    with torch._C.DisableTorchFunctionSubclass():
        return GradientEdge(*get_gradient_edge(tensor)[:2])


class Walk:
    """All nodes that some roots reach, breadth first, with every edge.

    Edges stand in columns, those of one node together: the edges of node u are the positions `start[u]` to
    `start[u + 1]`, and so on by rising u. A million nodes take some 200 bytes each, their own wrappers apart.
    """

    def __init__(self) -> None:
        # The wrapper of a node keeps its identity only while it is held: every one stays in here meanwhile.
        self.key_of: dict[Node, int] = {}
        self.nodes: list[Node] = []
        self.detached: list[int] = []  # None slots of each node
        self.start = [0]
        self.source: list[int] = []
        self.target: list[int] = []
        self.slot: list[int] = []
        self.output_nr: list[int] = []

    def follow(self, roots: Sequence[GradientEdge]) -> None:
        """Add all that `roots` reach. Iterative; runs no user code."""
        keys, nodes = self.key_of, self.nodes
        add_source, add_target = self.source.append, self.target.append
        add_slot, add_output_nr = self.slot.append, self.output_nr.append
        add_detached, add_start = self.detached.append, self.start.append
        position = len(self.target)
        u = len(nodes)
        for root in roots:
            if root.node not in keys:
                keys[root.node] = len(nodes)
                nodes.append(root.node)
        while u < len(nodes):
            missing = 0
            for slot, (child, output_nr) in enumerate(nodes[u].next_functions):
                if child is None:
                    missing += 1
                    continue
                v = keys.get(child)
                if v is None:
                    v = keys[child] = len(nodes)
                    nodes.append(child)
                add_source(u)
                add_target(v)
                add_slot(slot)
                add_output_nr(output_nr)
                position += 1
            add_detached(missing)
            add_start(position)
            u += 1

    def keys(self, roots: Sequence[GradientEdge]) -> list[int]:
        """Keys of the nodes of `roots`, in their order."""
        return [self.key_of[root.node] for root in roots]

    def below(self, key: int) -> list[int]:
        """Keys of the nodes that the edges of `key` lead to, one for each edge."""
        return self.target[self.start[key] : self.start[key + 1]]


def made_within(tensors: Sequence[Tensor], first: int, last: int, stop: Callable[[Node], bool]) -> Iterator[Node]:
    """The nodes behind `tensors` whose sequence numbers are from `first` to `last`, exclusive, but for what `stop`s."""
    stack = [tensor.grad_fn for tensor in tensors]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen or not first <= node._sequence_nr() < last or stop(node):
            continue
        seen.add(node)
        yield node
        stack += [child for child, _ in node.next_functions]
