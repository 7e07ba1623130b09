"""`View`: a graph small enough to look at. Boxes stand for nodes of an autograd graph, and say for how many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx

from gradgraph.errors import InputError

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    _Base = nx.MultiDiGraph[int]
else:
    _Base = nx.MultiDiGraph

__all__ = ["View"]


class View(_Base):
    """What `fold`, `focus` and `path` return: a `networkx.MultiDiGraph` of boxes, pure data, without torch.

    Every node of the original graph is in one box or hidden, and every edge is between boxes, inside of one or hidden:
    counts, bytes, ranges and curvature are those of the whole. The folding page lists the attributes of boxes.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> y = x
        >>> for _ in range(100):
        ...     y = y.sin() * x
        >>> view = gradgraph.fold(gradgraph.trace(y), by="repeat")
        >>> view
        <View by repeat: 5 boxes for 201 nodes, 300 edges, order 0>
        >>> [(box["label"], box["times"]) for _, box in view.nodes(data=True)]
        [('MulBackward0', 99), ('SinBackward0', 99), ('x', 1), ('MulBackward0', 1), ('SinBackward0', 1)]
    """

    def __init__(self, incoming_graph_data: Any = None, **attributes: Any) -> None:
        super().__init__(incoming_graph_data, **attributes)
        self._box_of: dict[int, int] | None = None

    @property
    def clusters(self) -> dict[str, dict[str, Any]]:
        """The frames that boxes lie in: `label`, `parent` (a name or None) and `times`, by name."""
        found: dict[str, dict[str, Any]] = self.graph.get("clusters", {})
        return found

    def box_of(self, key: int) -> int:
        """Key of the box that holds the node `key` of the original graph.

        Raises:
            InputError: no box does: the view hides it, or the graph has no such node.
        """
        if self._box_of is None or len(self._box_of) == 0:
            self._box_of = {member: box for box, data in self.nodes(data=True) for member in data["members"]}
        if key not in self._box_of:
            raise InputError(
                f"no box of this view holds the node {key!r}: expected a key of the original graph that the view "
                f"shows ({len(self._box_of)} of {self.graph.get('nodes', len(self._box_of))} are shown)."
            )
        return self._box_of[key]

    def render(self, path: str | PathLike[str], **options: Any) -> Path:
        """Draw the view into a file; see `gradgraph.render`."""
        from gradgraph.render import render

        return render(self, path, **options)

    def __repr__(self) -> str:
        orders = self.graph.get("orders") or []
        span = (
            f"order {orders[0]}" if len(orders) == 1 else f"orders {orders[0]} to {orders[-1]}" if orders else "empty"
        )
        hidden = self.graph.get("hidden", {}).get("nodes", 0)
        behind = f", {hidden} nodes hidden" if hidden else ""
        return (
            f"<View by {self.graph.get('by')}: {len(self)} boxes for {self.graph.get('nodes', 0) - hidden} nodes, "
            f"{self.graph.get('edges', 0)} edges, {span}{behind}>"
        )

    __str__ = __repr__

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's
        from gradgraph.notebook import mimebundle

        return mimebundle(self)
