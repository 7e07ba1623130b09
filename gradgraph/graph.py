"""`AutogradGraph`: an autograd graph as a `networkx.MultiDiGraph` of plain data, with its live handle apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any

import networkx as nx

from gradgraph.errors import InputError, ReleasedGraphError

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    import torch
    from torch.autograd.graph import GradientEdge, Node

    from gradgraph.view import View

    _Base = nx.MultiDiGraph[int]
else:
    _Base = nx.MultiDiGraph

__all__ = ["NODE_ATTRIBUTES", "RESERVED", "SCHEMA_VERSION", "AutogradGraph", "Live", "annotate"]

SCHEMA_VERSION = 1

#: Names of node attributes that node-link JSON needs for itself.
RESERVED = frozenset(("id",))

#: Every node attribute and the value it has while nothing is known.
NODE_ATTRIBUTES: dict[str, Any] = {
    "op": None,
    "kind": "op",
    "name": None,
    "order": 0,
    "creator": None,
    "pass": None,
    "accumulation": False,
    "provenance": "inferred",
    "outputs": [],
    "module": None,
    "module_call": None,
    "source": None,
    "detached_slots": 0,
    "saved": [],
    "saved_bytes": 0,
    "storage": None,
    "gradient": None,
    "accumulated": None,
    "hessian_diagonal": None,
    "curvature": None,
}


_CACHED_VIEWS = frozenset(
    ("adj", "succ", "pred", "nodes", "edges", "out_edges", "in_edges", "degree", "in_degree", "out_degree")
)


@dataclass
class Live:
    """What ties a graph to the running program: its nodes, leaf tensors and roots.

    While it is held, so is every activation that the nodes saved; `AutogradGraph.release` drops it.
    """

    nodes: list[Node] = field(default_factory=list)  # the node of key k is nodes[k]
    leaves: dict[int, torch.Tensor] = field(default_factory=dict)  # key of an AccumulateGrad node -> its variable
    roots: list[GradientEdge] = field(default_factory=list)  # what `trace` was given, in its order


class AutogradGraph(_Base):
    """An autograd graph. Edges follow the backward pass: `u -> v` for each `(v, nr)` in `u.next_functions`.

    Node keys are ints in discovery order; the key of an edge is its slot in `next_functions`. Attributes are JSON
    values, listed in the data-model page. Every networkx algorithm works on it. Copies, subgraphs, reversed, pickled
    and loaded graphs hold the same data and no live nodes. As a context manager it is released at the block's end.

    Example:
        >>> import networkx, torch, gradgraph
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> with gradgraph.trace(x.exp() + 1) as graph:
        ...     print(graph)
        <AutogradGraph: 3 nodes, 2 edges, order 0, live>
        >>> [graph.nodes[key]["op"] for key in networkx.shortest_path(graph, graph.roots[0], graph.find("x"))]
        ['AddBackward0', 'ExpBackward0', 'AccumulateGrad']
    """

    def __init__(self, incoming_graph_data: Any = None, **attributes: Any) -> None:
        super().__init__(incoming_graph_data, **attributes)
        self._live: Live | None = None

    @property
    def live(self) -> Live:
        """The live nodes, leaves and roots.

        Raises:
            ReleasedGraphError: the graph was released, loaded, copied or sliced.
        """
        if self._live is None:
            raise ReleasedGraphError(
                "this analysis needs live autograd nodes, but the graph holds none: it was released, loaded from a "
                "file, copied or sliced. Call gradgraph.trace(outputs) again and analyse that graph before release()."
            )
        return self._live

    @property
    def is_live(self) -> bool:
        """Whether the graph still holds autograd nodes (and with them the activations that they saved)."""
        return self._live is not None

    def release(self) -> None:
        """Drop the live nodes, and with them every activation that they keep alive. The data stays."""
        self._live = None

    def __enter__(self) -> AutogradGraph:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __getstate__(self) -> dict[str, Any]:
        # Autograd nodes can be neither pickled nor copied; what travels is the data. The views that networkx caches
        # in __dict__ (adj, nodes, edges, ...) refer to this object's dicts and are made anew on demand.
        state = {name: value for name, value in self.__dict__.items() if name not in _CACHED_VIEWS}
        state["_live"] = None
        return state

    @property
    def roots(self) -> list[int]:
        """Keys of the nodes that `trace` was given, in its order, as far as this (sub)graph holds them."""
        return [key for key in self.graph.get("roots", []) if key in self]

    def leaves(self) -> dict[int, str]:
        """Name of each leaf by its node key, in discovery order."""
        return {key: data["name"] for key, data in self.nodes.items() if data["kind"] == "leaf"}

    def find(self, name: str) -> int:
        """Key of the node called `name`.

        Raises:
            InputError: no node has that name, or several have.
        """
        keys = [key for key, data in self.nodes.items() if data["name"] == name]
        if len(keys) == 1:
            return keys[0]
        known = [data["name"] for _, data in self.nodes.items() if data["name"] is not None]
        found = "several nodes" if keys else "no node"
        raise InputError(f"{found} of this graph is called {name!r}; its names are {_listed(known)}.")

    def by_order(self) -> dict[int, list[int]]:
        """Node keys by derivative order, lowest first."""
        groups: dict[int, list[int]] = {}
        for key, data in self.nodes(data=True):
            groups.setdefault(data["order"], []).append(key)
        return dict(sorted(groups.items()))

    def fold(self, by: str = "auto", **options: Any) -> View:
        """A view of the graph that is small enough to look at; see `gradgraph.fold`."""
        from gradgraph.view import fold

        return fold(self, by, **options)  # type: ignore[arg-type]

    def focus(self, node: int | str, hops: int = 2) -> View:
        """The neighbourhood of a node; see `gradgraph.focus`."""
        from gradgraph.view import focus

        return focus(self, node, hops)

    def path(self, a: int | str, b: int | str) -> View:
        """All nodes on the ways from `a` to `b`; see `gradgraph.path`."""
        from gradgraph.view import path

        return path(self, a, b)

    def render(self, path: str | PathLike[str], **options: Any) -> Path:
        """Draw the graph into a file; see `gradgraph.render`."""
        from gradgraph.render import render

        return render(self, path, **options)

    def __repr__(self) -> str:
        orders = sorted({data.get("order", 0) for _, data in self.nodes(data=True)})
        span = "empty" if not orders else f"order {orders[0]}"
        if len(orders) > 1:
            span = f"orders {orders[0]} to {orders[-1]}"
        live = ", live" if self._live is not None else ""
        return f"<AutogradGraph: {len(self)} nodes, {self.number_of_edges()} edges, {span}{live}>"

    __str__ = __repr__

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's
        from gradgraph.notebook import mimebundle

        return mimebundle(self)


def annotate(graph: AutogradGraph, attribute: str, values: Any) -> None:
    """Write `values` into the node attribute `attribute` of `graph`.

    Args:
        graph: the graph to write into.
        attribute: name of a node attribute, one of the data model's or your own (but none of `RESERVED`).
        values: a mapping from node key, or from node name, to a JSON value or a dataclass of such; or a result that
            knows its nodes (what `gradients`, `hessian_diagonal` and `watch` return).

    Raises:
        InputError: a key or name that is not in the graph, or a value that JSON cannot hold. Nothing is written then.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> graph = gradgraph.trace(x * x)
        >>> gradgraph.annotate(graph, "gradient", gradgraph.gradients(graph))
        >>> gradgraph.annotate(graph, "note", {"x": "the input"})
        >>> graph.nodes[graph.find("x")]["gradient"][0]["norm"], graph.nodes[graph.find("x")]["note"]
        (6.0, 'the input')
    """
    if hasattr(values, "annotations"):
        values = values.annotations(graph)
    if attribute in RESERVED:
        raise InputError(
            f"annotate cannot use the attribute {attribute!r}: node-link JSON needs it; choose another name."
        )
    if not isinstance(values, Mapping):
        raise InputError(
            f"annotate expected a mapping from node key or name to value, got {type(values).__name__}; "
            "pass for example {graph.find('weight'): 1.0}."
        )
    written: list[tuple[int, Any]] = []
    for key, value in values.items():
        node = graph.find(key) if isinstance(key, str) else key
        if node not in graph:
            raise InputError(f"annotate got the node key {key!r}, but the graph's keys are 0 to {len(graph) - 1}.")
        value = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        _check_json(value, f"attribute {attribute!r} of node {node}")
        written.append((node, value))
    for node, value in written:
        graph.nodes[node][attribute] = value


def _check_json(value: Any, where: str) -> None:
    """Raise InputError unless `value` is made of JSON scalars, lists and dicts with string keys."""
    if value is None or isinstance(value, (str, int, float)):  # bool is an int; NaN and inf are kept, see readwrite
        return
    if isinstance(value, list):
        for item in value:
            _check_json(item, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{where}: dict keys must be strings for JSON, got {key!r}.")
            _check_json(item, where)
    else:
        raise InputError(
            f"{where}: expected a JSON value (None, bool, int, float, str, list, dict), got "
            f"{type(value).__name__}; convert it, for example with .item() or .tolist()."
        )


def _listed(names: list[str], limit: int = 8) -> str:
    """`names` as text, cut to `limit`."""
    if not names:
        return "(none)"
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
