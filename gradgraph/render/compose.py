"""From a graph, or a view of one, to its `Picture`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from gradgraph.render.folded import folded_lines
from gradgraph.render.lines import Line, Show, alerting, lines_of, printable, short_source
from gradgraph.render.measures import MeasureName, measured, scale_of
from gradgraph.render.picture import Arrow, Box, Cluster, Picture, box

if TYPE_CHECKING:
    import networkx as nx

    Drawable = nx.MultiDiGraph[int]

__all__ = ["picture_of"]

_MOST_SLOTS = 4  # of parallel arrows that a label spells out


def picture_of(
    graph: Drawable,
    show: Show,
    *,
    color: Literal["order"] | MeasureName = "order",
    title: str | None = None,
    captions: tuple[str, ...] = (),
) -> Picture:
    """The picture of an autograd graph, every node a box, or of a view of one. Leaves are copied at each use.

    Args:
        graph: a graph with the attributes of `gradgraph.graph.NODE_ATTRIBUTES`, or a `View`.
        show: which annotations the boxes carry.
        color: what the fill of the boxes shows.
        title: a heading.
        captions: what is to be said below it.

    Raises:
        InputError: `color` is not known, or no node carries that attribute.
    """
    values = {} if color == "order" else measured(graph.nodes, color)
    names = {key: _name(key, data) for key, data in graph.nodes.items()}
    uses = _uses(graph)
    focus = set(graph.graph.get("focus") or ())
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    for mark, key in _root_marks(graph):
        boxes.append(mark)
        # Of a leaf that is used, the first copy stands for the node.
        first = _stub(names[next(iter(uses[key]))], names[key]) if key in uses else names[key]
        arrows.append(Arrow(mark.key, first, "mark"))
    for key, data in graph.nodes.items():
        if key not in uses:
            boxes.append(_box(names[key], data, show, values.get(key), _creators(data, names), key in focus))
        for child in graph.successors(key):
            target = names[child]
            if child in uses:
                target = _stub(names[key], names[child])
                boxes.append(_leaf(graph, key, child, target, uses[child], show, values.get(child)))
            arrows += _arrows(graph, key, child, names[key], target)
    return Picture(
        tuple(boxes),
        tuple(arrows),
        title,
        None if color == "order" else scale_of(color, values),
        tuple(_clusters(graph)),
        captions,
    )


def _name(key: int, data: Mapping[str, Any]) -> str:
    """A box's key in the picture: `n7` for node 7, wherever it stands; `b3` for the folded box 3 of a view."""
    if data.get("fold"):
        return f"b{key}"
    members = data.get("members")
    return f"n{members[0] if members else key}"


def _stub(consumer: str, leaf: str) -> str:
    return f"{consumer}u{leaf.removeprefix('n')}"


def _uses(graph: Drawable) -> dict[int, dict[int, int]]:
    """The consumers of each leaf and their positions, in the order in which they are drawn."""
    leaves = {key for key, data in graph.nodes.items() if _is_leaf(data)}
    uses: dict[int, dict[int, int]] = {}
    for key in graph:
        for child in graph.successors(key):
            if child in leaves:
                consumers = uses.setdefault(child, {})
                consumers.setdefault(key, len(consumers))
    return uses


def _is_leaf(data: Mapping[str, Any]) -> bool:
    """Whether a box is a leaf, or the corresponding leaves of equal parts."""
    return data.get("kind") == "leaf" or set(data.get("kinds") or ()) == {"leaf"}


def _box(
    name: str,
    data: Mapping[str, Any],
    show: Show,
    value: float | None,
    creators: tuple[tuple[str, float], ...],
    focus: bool,
) -> Box:
    folded = bool(data.get("fold"))
    lines = [*(folded_lines if folded else lines_of)(data, show), *_rim(data)]
    return box(
        name,
        lines,
        "folded" if folded else str(data.get("kind", "op")),
        int(data.get("order", 0)),
        alert=alerting(lines),
        measure=value,
        times=int(data.get("times") or 1),
        creators=creators,
        clusters=tuple(data.get("clusters") or ()),
        leaf=_is_leaf(data),
        focus=focus,
        highest=max(data.get("orders") or [data.get("order", 0)]),
    )


def _rim(data: Mapping[str, Any]) -> Iterator[Line]:
    """How many neighbours a view hides."""
    for name, words in (("hidden_in", "consumer"), ("hidden_out", "input")):
        count = data.get(name)
        if count:
            yield Line(f"… {count:,} more {words}{'s' if count > 1 else ''}")


def _leaf(
    graph: Drawable,
    consumer: int,
    key: int,
    name: str,
    consumers: Mapping[int, int],
    show: Show,
    value: float | None,
) -> Box:
    """The stub of a leaf at one of its uses. Only the first carries annotations: a value is shown once."""
    data = graph.nodes[key]
    first = consumers[consumer] == 0
    folded = bool(data.get("fold"))
    lines = (folded_lines if folded else lines_of)(data, show if first else Show(device=show.device))
    if len(consumers) > 1:
        lines.insert(2, Line(f"use {consumers[consumer] + 1} of {len(consumers)}"))
    lines += _rim(data) if first else ()
    return box(
        name,
        lines,
        "folded" if folded else "leaf",
        int(data.get("order", 0)),
        alert=alerting(lines),
        copy=not first,
        measure=value,
        stub=True,
        leaf=True,
        times=int(data.get("times") or 1),
        clusters=tuple(graph.nodes[consumer].get("clusters") or ()),
    )


def _creators(data: Mapping[str, Any], names: Mapping[int, str]) -> tuple[tuple[str, float], ...]:
    """The boxes whose backward made this one, each with the number of nodes that it made."""
    several = data.get("creators")
    if several:
        return tuple((names[int(key)], float(count)) for key, count in several.items() if int(key) in names)
    one = data.get("creator")
    return ((names[int(one)], 1.0),) if one is not None and one in names and "members" not in data else ()


def _arrows(graph: Drawable, tail: int, head: int, source: str, target: str) -> Iterator[Arrow]:
    """The edges between two boxes. The first tells the slots of all: on parallel arrows labels would overlap."""
    about = graph.nodes[tail]
    several = not about.get("fold") and graph.out_degree(tail) + (about.get("detached_slots") or 0) > 1
    many_outputs = not graph.nodes[head].get("fold") and len(graph.nodes[head].get("outputs") or []) > 1
    edges = list(graph[tail][head].items())
    labels = []
    for key, data in edges:
        slot = data.get("slot", key) if data.get("count", 1) == 1 else None
        output = f"out {data.get('output_nr', 0)}" if many_outputs and slot is not None else ""
        labels.append(" → ".join(part for part in (str(slot) if several and slot is not None else "", output) if part))
    labels = [label for label in labels if label]
    if len(labels) > _MOST_SLOTS:
        labels = [*labels[: _MOST_SLOTS - 1], f"… {labels[-1]}"]
    together = ("\n" if many_outputs else ", ").join(labels)
    parts = max(int(about.get("times") or 1), int(graph.nodes[head].get("times") or 1))
    for index, (_, data) in enumerate(edges):
        role, count = str(data.get("role", "gradient")), int(data.get("count", 1))
        yield Arrow(source, target, role, together if index == 0 else "", count, plain=count == parts)


def _root_marks(graph: Drawable) -> Iterator[tuple[Box, int]]:
    """A mark for each node that was traced from, with the positions among the outputs where there are several."""
    roots = list(graph.graph.get("roots", []))
    places: dict[int, list[int]] = {}
    for position, key in enumerate(roots):
        if key in graph:
            places.setdefault(key, []).append(position)
    for key, positions in places.items():
        data = graph.nodes[key]
        text = "root" if len(roots) == 1 else f"root {_listed(positions)}"
        order, clusters = int(data.get("order", 0)), tuple(data.get("clusters") or ())
        yield box(f"root{key}", [Line(text, "head")], "root", order, clusters=clusters), key


def _listed(positions: list[int]) -> str:
    """The first few of them, and how many there are where that is many."""
    shown = ", ".join(map(str, positions[:4]))
    return shown if len(positions) <= 4 else f"{shown} … ({len(positions):,})"


def _clusters(graph: Drawable) -> Iterator[Cluster]:
    for name, about in (getattr(graph, "clusters", None) or {}).items():
        times = int(about.get("times") or 1)
        label = str(about.get("label") or name).removesuffix(f"×{times}").rstrip()
        yield Cluster(name, printable(short_source(label)), about.get("parent"), times)
