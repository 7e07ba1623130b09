"""What a graph is made of, counted: for reading in a terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import networkx as nx

from gradgraph.render.lines import format_bytes, format_shape, shorten
from gradgraph.render.memory import memory
from gradgraph.render.table import table

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph

__all__ = ["LeafEntry", "NodeEntry", "Summary", "summary"]

_MOST_ROWS = 20  # of each table


@dataclass(frozen=True)
class NodeEntry:
    """A node worth naming."""

    node: int
    op: str
    name: str | None
    module: str | None
    source: str | None


@dataclass(frozen=True)
class LeafEntry:
    """A leaf: its variable's name, shape, dtype, bytes, and how many operations use it."""

    node: int
    name: str | None
    shape: list[int] | None
    dtype: str | None
    bytes: int | None
    uses: int


@dataclass(frozen=True)
class Summary:
    """A graph in numbers.

    Attributes:
        nodes: how many nodes.
        edges: how many edges.
        curvature_edges: how many of the edges carry curvature.
        by_order: nodes by derivative order.
        by_kind: nodes by kind.
        ops: nodes by order, then by op, the most frequent first; leaves not counted.
        leaves: every leaf.
        roots: what was traced from.
        depth: edges on the longest way from a root to a leaf.
        detached_slots: inputs that need no gradient, of all nodes.
        saved_bytes: bytes that the graph keeps alive, each storage once.
        saved_parameters: of these, the bytes of the leaves' own storages.
        saved_activations: the rest.
        packed: saved tensors behind a hook, whose bytes are unknown.
        blocked: nodes that cannot be differentiated again.
        opaque: nodes that hide other operations.
        custom: Python Functions.
        freed: nodes whose saved tensors a backward pass has freed.
        modified: nodes with a saved tensor that was changed in place since.
        unreached: names given to `trace` that are no leaf of the graph.
    """

    nodes: int
    edges: int
    curvature_edges: int
    by_order: dict[int, int]
    by_kind: dict[str, int]
    ops: dict[int, dict[str, int]]
    leaves: list[LeafEntry]
    roots: list[NodeEntry]
    depth: int
    detached_slots: int
    saved_bytes: int
    saved_parameters: int
    saved_activations: int
    packed: int
    blocked: list[NodeEntry]
    opaque: list[NodeEntry]
    custom: list[NodeEntry]
    freed: list[NodeEntry]
    modified: list[NodeEntry]
    unreached: list[str]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values; the orders are strings there, as JSON's keys must be."""
        values = asdict(self)
        for name in ("by_order", "ops"):
            values[name] = {str(order): value for order, value in values[name].items()}
        return values

    def to_text(self, width: int = 100) -> str:
        """All of it for a terminal of `width` columns; long lists are cut, with a count."""
        return "\n".join(_text(self, width))

    __str__ = to_text


def summary(graph: AutogradGraph) -> Summary:
    """Count what `graph` is made of. Linear in nodes and edges."""
    ops: dict[int, Counter[str]] = {}
    kinds: Counter[str] = Counter()
    marked: dict[str, list[NodeEntry]] = {name: [] for name in ("blocked", "opaque", "custom", "freed", "modified")}
    for key, data in graph.nodes(data=True):
        kinds[data["kind"]] += 1
        per_order = ops.setdefault(data["order"], Counter())
        if data["kind"] != "leaf":
            per_order[data["op"]] += 1
        states = {entry["state"] for entry in data["saved"]}
        for mark in marked.keys() & {data["kind"], *states}:
            marked[mark].append(_entry(key, data))
    kept = memory(graph)
    return Summary(
        nodes=len(graph),
        edges=graph.number_of_edges(),
        curvature_edges=sum(data.get("role") == "curvature" for _, _, data in graph.edges(data=True)),
        by_order={order: len(keys) for order, keys in graph.by_order().items()},
        by_kind=dict(sorted(kinds.items())),
        ops={order: dict(sorted(counts.items(), key=_most_first)) for order, counts in sorted(ops.items())},
        leaves=[_leaf(graph, key, data) for key, data in graph.nodes(data=True) if data["kind"] == "leaf"],
        roots=[_entry(key, graph.nodes[key]) for key in graph.roots],
        depth=_depth(graph),
        detached_slots=sum(data["detached_slots"] for _, data in graph.nodes(data=True)),
        saved_bytes=kept.total,
        saved_parameters=kept.parameters,
        saved_activations=kept.activations,
        packed=kept.packed,
        unreached=list(graph.graph.get("unreached", [])),
        **marked,
    )


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _entry(key: int, data: dict[str, Any]) -> NodeEntry:
    return NodeEntry(key, data["op"], data["name"], data["module"], data["source"])


def _leaf(graph: AutogradGraph, key: int, data: dict[str, Any]) -> LeafEntry:
    output = data["outputs"][0] if data["outputs"] else {"shape": None, "dtype": None}
    uses = len(set(graph.predecessors(key)))
    return LeafEntry(key, data["name"], output["shape"], output["dtype"], _bytes(output), uses)


def _bytes(output: dict[str, Any]) -> int | None:
    """Bytes of a dense tensor of this shape and dtype."""
    size = _ITEM_BYTES.get(str(output["dtype"]))
    if size is None or output["shape"] is None:
        return None
    for length in output["shape"]:
        size *= length
    return size


# Of the dtypes that can require grad.
_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_ITEM_BYTES |= {"complex32": 4, "complex64": 8, "complex128": 16}
_ITEM_BYTES |= dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"), 1)


def _depth(graph: AutogradGraph) -> int:
    """Edges on the longest path; 0 where a cycle, which autograd never makes, leaves none."""
    depth: dict[int, int] = {}
    for generation, keys in enumerate(nx.topological_generations(graph)):
        depth.update(dict.fromkeys(keys, generation))
    return max(depth.values(), default=0)


def _text(found: Summary, width: int) -> list[str]:
    lines = [
        f"{_count(found.nodes, 'node')}, {_count(found.edges, 'edge')} ({found.curvature_edges} of curvature), "
        f"depth {found.depth}"
    ]
    lines += [f"root: {shorten(_named(entry), width - 6)}" for entry in found.roots[:_MOST_ROWS]] + _more(found.roots)
    for order, counts in found.ops.items():
        lines += ["", f"order {order}: {_count(found.by_order[order], 'node')}"]
        rows = [[str(count), op] for op, count in counts.items()]
        lines += table(rows[:_MOST_ROWS], right=(0,), width=width, indent="  ") + _more(rows)
    if found.leaves:
        lines += ["", _count(len(found.leaves), "leaf", "leaves")]
        rows = [
            [str(leaf.name), format_shape(leaf.shape), leaf.dtype or "", format_bytes(leaf.bytes), _uses(leaf.uses)]
            for leaf in found.leaves
        ]
        lines += table(rows[:_MOST_ROWS], right=(3,), width=width, indent="  ") + _more(rows)
    kept = (
        f"{format_bytes(found.saved_activations)} of activations, {format_bytes(found.saved_parameters)} of parameters"
    )
    lines += ["", f"keeps {format_bytes(found.saved_bytes)}: {kept}"]
    if found.packed:
        lines.append(f"  and {_count(found.packed, 'tensor')} behind saved-tensor hooks, of unknown size")
    if found.detached_slots:
        lines.append(_count(found.detached_slots, "input") + " without gradient")
    if found.unreached:
        lines.append(f"not in the graph: {', '.join(found.unreached[:_MOST_ROWS])}" + "".join(_more(found.unreached)))
    for title, entries in (
        ("cannot be differentiated again", found.blocked),
        ("hides other operations", found.opaque),
        ("custom Function", found.custom),
        ("saved tensors freed by a backward pass", found.freed),
        ("saved tensor changed in place since", found.modified),
    ):
        if entries:
            lines += ["", f"{title}: {_count(len(entries), 'node')}"]
            lines += [f"  {shorten(_named(entry), width - 2)}" for entry in entries[:_MOST_ROWS]] + _more(entries)
    return lines


def _named(entry: NodeEntry) -> str:
    parts = [f"{entry.op} (node {entry.node})" + (f" = {entry.name}" if entry.name else "")]
    parts += [f"module {entry.module}"] if entry.module else []
    parts += [entry.source] if entry.source else []
    return ", ".join(parts)


def _uses(count: int) -> str:
    return "" if count == 1 else f"used ×{count}"


def _count(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def _more(items: list[Any]) -> list[str]:
    return [f"  … and {len(items) - _MOST_ROWS} more"] if len(items) > _MOST_ROWS else []
