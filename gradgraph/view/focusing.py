"""`focus()` and `path()`: a part of a graph, and how much it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradgraph.errors import InputError
from gradgraph.view.folding import gc_paused
from gradgraph.view.names import near
from gradgraph.view.quotient import single_boxes
from gradgraph.view.reading import Reading
from gradgraph.view.views import View

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["focus", "path"]


def focus(graph: nx.MultiDiGraph[int], node: int | str, hops: int = 2) -> View:
    """The neighbourhood of a node: what is at most `hops` edges away, whichever way they lead.

    The way does not lead on through a leaf, so that a shared weight does not bring all that uses it. Each box says how
    many of its neighbours are hidden: `hidden_in` consume it, of `hidden_out` it is made. `view.graph["focus"]` holds
    the boxes in the middle, `view.graph["hidden"]` how many nodes and edges are left out in all.

    Args:
        graph: a graph, or a view of one.
        node: a key of it; a name; a label of a box; an operation that it has once; or a module path, which means all
            that is in the module.
        hops: how far.

    Raises:
        InputError: `node` is nothing in the graph, or several operations; `hops` is no whole number from 0.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> graph = gradgraph.trace(((x * x).exp() + 1).log())
        >>> view = gradgraph.focus(graph, "ExpBackward0", hops=1)
        >>> [(box["label"], box["hidden_in"], box["hidden_out"]) for _, box in view.nodes(data=True)]
        [('AddBackward0', 1, 0), ('ExpBackward0', 0, 0), ('MulBackward0', 0, 1)]
    """
    if isinstance(hops, bool) or not isinstance(hops, int) or hops < 0:
        raise InputError(f"focus expected hops to be a whole number from 0, got {hops!r}.")
    centre = _meant(graph, node, "focus")
    shown = set(centre)
    rim = list(centre)
    for _ in range(hops):
        beyond = []
        for key in rim:
            if key in centre or not _is_leaf(graph.nodes[key]):
                for other in (*graph.successors(key), *graph.predecessors(key)):
                    if other not in shown:
                        shown.add(other)
                        beyond.append(other)
        rim = beyond
    view, box_of = _part(graph, shown)
    view.graph["focus"] = [box_of(key) for key in centre]
    return view


def path(graph: nx.MultiDiGraph[int], a: int | str, b: int | str) -> View:
    """All nodes on the ways from `a` to `b`, along edges; either may come first.

    `view.graph["path"]` holds the boxes of the two ends, the one that comes first in the backward pass first.

    Args:
        graph: a graph, or a view of one.
        a: one end; as in `focus`.
        b: the other.

    Raises:
        InputError: an end is nothing in the graph; or no way leads from one to the other: then it says what both reach.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> graph = gradgraph.trace(x.exp() * x.sin() + x)
        >>> [box["label"] for _, box in gradgraph.path(graph, "SinBackward0", "MulBackward0").nodes(data=True)]
        ['MulBackward0', 'SinBackward0']
    """
    first, second = _meant(graph, a, "path"), _meant(graph, b, "path")
    from_first, from_second = _reached(first, graph.successors), _reached(second, graph.successors)
    for starts, ends, below in ((first, second, from_first), (second, first, from_second)):
        if any(end in below for end in ends):
            shown = below & _reached([end for end in ends if end in below], graph.predecessors)
            view, box_of = _part(graph, shown)
            view.graph["path"] = [[box_of(key) for key in keys if key in shown] for keys in (starts, ends)]
            return view
    raise InputError(
        f"no way leads from {a!r} to {b!r} or back along the edges of this graph; "
        + _in_common(graph, from_first & from_second, first, second)
    )


def _part(graph: nx.MultiDiGraph[int], shown: set[int]) -> tuple[View, Callable[[int], int]]:
    """The view of some nodes of a graph or view, and where it puts each."""
    if isinstance(graph, View):
        return _part_of_view(graph, shown), lambda key: key
    with gc_paused(len(graph)):
        reading = Reading(graph)
        view = single_boxes(reading, sorted(reading.index[key] for key in shown), graph.graph)
    return view, view.box_of


def _part_of_view(view: View, shown: set[int]) -> View:
    """Boxes keep their keys."""
    part = View()
    nodes, edges = 0, 0
    for key, data in view.nodes(data=True):
        if key in shown:
            data = {**data, "creators": {one: count for one, count in data["creators"].items() if one in shown}}
            data["hidden_in"] = data.get("hidden_in", 0) + _hidden(view.predecessors(key), shown)
            data["hidden_out"] = data.get("hidden_out", 0) + _hidden(view.successors(key), shown)
            part.add_node(key)
            part.nodes[key].update(data)
        else:
            nodes += data["count"]
            edges += sum(data["inner"].values())
    for tail, head, index, data in view.edges(keys=True, data=True):
        if tail in shown and head in shown:
            part.add_edge(tail, head, index)
            part.edges[tail, head, index].update(data)
        else:
            edges += data["count"]
    before = view.graph["hidden"]
    named = {name for _, data in part.nodes(data=True) for name in data["clusters"]}
    part.graph.update(
        view.graph,
        hidden={"nodes": before["nodes"] + nodes, "edges": before["edges"] + edges},
        roots=[key for key in view.graph["roots"] if key in shown],
        clusters={name: about for name, about in view.clusters.items() if name in named},
    )
    return part


def _hidden(neighbours: Iterable[int], shown: set[int]) -> int:
    return sum(key not in shown for key in neighbours)


def _is_leaf(data: Mapping[str, Any]) -> bool:
    return set(data["kinds"]) == {"leaf"} if "kinds" in data else data.get("kind") == "leaf"


def _reached(starts: Sequence[int], step: Callable[[int], Iterable[int]]) -> set[int]:
    found = set(starts)
    stack = list(starts)
    while stack:
        for key in step(stack.pop()):
            if key not in found:
                found.add(key)
                stack.append(key)
    return found


def _meant(graph: nx.MultiDiGraph[int], node: int | str, what: str) -> list[int]:
    """The nodes that `node` means: the first way of reading it that finds any."""
    if isinstance(node, int) and not isinstance(node, bool):
        if node not in graph:
            raise InputError(f"{what} got the key {node}, and the graph has no such node; it has {_span(graph)}.")
        return [node]
    if not isinstance(node, str):
        raise InputError(f"{what} expected a node's key or name, got {node!r}.")
    ops: list[int] = []
    for attribute in ("name", "label", "group", "op"):
        ops = [key for key, data in graph.nodes(data=True) if data.get(attribute) == node]
        if len(ops) == 1 or (ops and attribute in ("label", "group") and not _are_ops(graph, ops)):
            return ops
        if ops:
            break
    if ops:
        some = ", ".join(map(str, ops[:5])) + (", ..." if len(ops) > 5 else "")
        raise InputError(f"{what}={node!r} could be {len(ops)} nodes; pass the key of one of them: {some}.")
    within = [key for key, data in graph.nodes(data=True) if _is_in(data.get("module"), node)]
    if within:
        return within
    known = {str(data.get(name)) for _, data in graph.nodes(data=True) for name in ("name", "label", "op", "module")}
    raise InputError(f"{what}={node!r} is nothing in this graph; {near(node, sorted(known - {'None'}))}")


def _are_ops(graph: nx.MultiDiGraph[int], keys: Iterable[int]) -> bool:
    return any(graph.nodes[key].get("fold") is None for key in keys)


def _is_in(module: Any, path: str) -> bool:
    return isinstance(module, str) and (module == path or module.startswith(f"{path}."))


def _span(graph: nx.MultiDiGraph[int]) -> str:
    keys = sorted(graph)
    if not keys:
        return "none"
    return f"the keys {keys[0]} to {keys[-1]}" if keys[-1] - keys[0] + 1 == len(keys) else f"{len(keys)} others"


def _in_common(graph: nx.MultiDiGraph[int], below: set[int], first: Sequence[int], second: Sequence[int]) -> str:
    if below:
        return f"both reach {_ends(graph, below, graph.predecessors)}."
    above = _reached(first, graph.predecessors) & _reached(second, graph.predecessors)
    if above:
        return f"they reach nothing in common; both are reached from {_ends(graph, above, graph.successors)}."
    return "they reach nothing in common, and nothing reaches both."


def _ends(graph: nx.MultiDiGraph[int], keys: set[int], beyond: Callable[[int], Iterable[int]]) -> str:
    """The nodes among `keys` that are met first: none of `keys` lies beyond them."""
    first = [key for key in sorted(keys) if not any(one in keys for one in beyond(key))] or sorted(keys)
    names = [f"{graph.nodes[key].get('name') or graph.nodes[key].get('op') or key} (node {key})" for key in first[:5]]
    return ", ".join(names) + (f" and {len(first) - 5} more" if len(first) > 5 else "")
