"""A graph read once into flat lists, which everything else here works on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Reading"]

_CURVATURE = "curvature"


class Reading:
    """A graph as lists over positions 0, 1, ... in the graph's own order. Nothing refers back to the graph but `data`.

    Attributes:
        keys: the node key at each position; `index` is the way back.
        data: the attributes of each node.
        start: where the edges of each node begin in `target`, `slot` and `about`, one more at the end; the edges of a
            node are in the order of their slots.
        ran: the place of each node in the order in which the program ran, as the structure tells it: lower orders
            first, inputs before what consumes them.
        order: derivative order of each node.
        creator: position of the node whose backward made it, else -1.
        leaf: whether it is a leaf.
        kind: a number for what the node is: equal for equal operations on equal shapes.
    """

    def __init__(self, graph: nx.MultiDiGraph[int]) -> None:
        self.keys: list[int] = []
        self.data: list[Mapping[str, Any]] = []
        for key, data in graph.nodes(data=True):
            self.keys.append(key)
            self.data.append(data)
        self.index = {key: place for place, key in enumerate(self.keys)}
        self.order = [int(data.get("order") or 0) for data in self.data]
        self.leaf = [data.get("kind") == "leaf" for data in self.data]
        self._read_edges(graph)
        self.kind = _kinds(self.data)
        self.creator = self._creators()
        self.ran = self._ran(graph.graph.get("roots") or ())

    def __len__(self) -> int:
        return len(self.keys)

    def _read_edges(self, graph: nx.MultiDiGraph[int]) -> None:
        index = self.index
        self.start = [0]
        self.target: list[int] = []
        self.slot: list[Any] = []
        self.about: list[Mapping[str, Any]] = []
        for _, neighbours in graph.adjacency():
            found = [(slot, index[v], about) for v, parallel in neighbours.items() for slot, about in parallel.items()]
            if len(found) > 1:
                found.sort(key=_slot)
            for slot, target, about in found:
                self.slot.append(slot)
                self.target.append(target)
                self.about.append(about)
            self.start.append(len(self.target))

    def targets(self, place: int) -> list[int]:
        """Where the edges of a node lead, by slot."""
        return self.target[self.start[place] : self.start[place + 1]]

    def is_curvature(self, edge: int) -> bool:
        """Whether the edge leads down to a lower order through a saved tensor."""
        return self.about[edge].get("role") == _CURVATURE

    def _creators(self) -> list[int]:
        """Creators that are in the graph. A node that would be its own ancestor has none."""
        index, order = self.index, self.order
        found = [-1] * len(self.keys)
        for place, data in enumerate(self.data):
            key = data.get("creator")
            if key is not None:
                creator = index.get(key, -1)
                # A backward makes nodes of a higher order than those that it differentiates, so no circle stays.
                if creator >= 0 and order[creator] < order[place]:
                    found[place] = creator
        return found

    def _ran(self, roots: Iterable[int]) -> list[int]:
        """A node runs when all that it consumes has run, what takes longest first; each order begins at its own ends.

        What a backward pass saw of a forward is no way through that. And what is quick to make, a parameter or an
        embedding, is made when it is needed: then the steps of a loop stay together.
        """
        start, target, order = self.start, self.target, self.order
        consumed = bytearray(len(self.keys))
        for place in range(len(self.keys)):
            for below in target[start[place] : start[place + 1]]:
                if order[below] == order[place]:
                    consumed[below] = 1
        ends = [self.index[key] for key in roots if key in self.index]
        ends += [place for place in range(len(self.keys)) if not consumed[place]]
        ends.sort(key=lambda place: (order[place], self.leaf[place]))
        ends += range(len(self.keys))
        height = [0] * len(self.keys)
        for place in self._depth_first(ends, height):
            inputs = target[start[place] : start[place + 1]]
            if inputs:
                height[place] = 1 + max([height[one] for one in inputs])
        ran = [-1] * len(self.keys)
        for number, place in enumerate(self._depth_first(ends, height)):
            ran[place] = number
        return ran

    def _depth_first(self, ends: list[int], height: list[int]) -> list[int]:
        """All nodes, inputs before consumers; of several inputs the highest first, then by slot. Without recursion."""
        start, target = self.start, self.target
        seen = bytearray(len(self.keys))
        done = []
        for end in ends:
            stack = [end]
            while stack:
                place = stack.pop()
                if place < 0:
                    done.append(~place)
                elif not seen[place]:
                    seen[place] = 1
                    inputs = target[start[place] : start[place + 1]]
                    stack.append(~place)
                    if len(inputs) > 1:
                        inputs.reverse()
                        inputs.sort(key=height.__getitem__)
                    stack += inputs
        return done


def _slot(edge: tuple[Any, int, Any]) -> Any:
    return edge[0]


def _kinds(nodes: list[Mapping[str, Any]]) -> list[int]:
    names: dict[Any, int] = {}
    shapes: dict[int, Any] = {}  # equal descriptions of a traced graph are one object
    found = []
    for data in nodes:
        outputs = data.get("outputs")
        shape = shapes.get(id(outputs))
        if shape is None:
            shape = shapes[id(outputs)] = _shape(outputs)
        name = (data.get("op"), data.get("kind"), shape, data.get("detached_slots"))
        found.append(names.setdefault(name, len(names)))
    return found


def _shape(outputs: Any) -> Any:
    if not isinstance(outputs, list):
        return (repr(outputs),)
    return tuple([(str(one.get("shape")), one.get("dtype")) if isinstance(one, dict) else repr(one) for one in outputs])
