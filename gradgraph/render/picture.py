"""What is drawn: boxes of known size, arrows between them, and a legend. Plain data, without colours or places."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import networkx as nx

from gradgraph.errors import InputError
from gradgraph.render.font import text_width
from gradgraph.render.lines import Line, Show, alerting, lines_of, printable, shorten

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph

__all__ = ["DETAIL_PT", "HEAD_PT", "Arrow", "Box", "Measure", "MeasureName", "Picture", "box", "picture_of"]

HEAD_PT = 10.0
DETAIL_PT = 9.0
_LINE_PT = 12.0  # what Graphviz advances for each line of 10 pt
_PADDING = (9.0, 6.0)

MeasureName = Literal["gradient", "hessian_diagonal", "curvature", "saved_bytes"]


@dataclass(frozen=True)
class Box:
    """One box. `category` is a node's `kind`, or `root` for the small mark that points at one."""

    key: str
    lines: tuple[Line, ...]  # as drawn: cut to their place
    category: str
    order: int
    width: float  # points
    height: float
    alert: bool = False
    copy: bool = False  # one more use of a leaf that an earlier box shows in full
    measure: float | None = None
    full: str | None = None  # the whole text, where a line is cut


@dataclass(frozen=True)
class Arrow:
    """One edge, in the direction of the backward pass. `role` is an edge's, or `mark` from a root's mark."""

    tail: str
    head: str
    role: str = "gradient"
    label: str = ""  # at its tail


@dataclass(frozen=True)
class Measure:
    """What the fill of the boxes shows instead of their order: a value per box, between two bounds."""

    label: str
    low: float
    high: float
    scale: Literal["log", "signed"]

    def place(self, value: float) -> float:
        """Where a value lies between the bounds, 0 to 1; NaN lies nowhere."""
        if self.scale == "log":
            if value <= 0 or self.high <= self.low:
                return 0.0 if value <= 0 else 1.0
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5


@dataclass(frozen=True)
class Picture:
    """All that is drawn, in the order in which it is drawn."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    title: str | None = None
    measure: Measure | None = None

    @property
    def connected(self) -> bool:
        """Whether the arrows join all boxes, in whatever direction."""
        joined: nx.Graph[str] = nx.Graph()
        joined.add_nodes_from(box.key for box in self.boxes)
        joined.add_edges_from((arrow.tail, arrow.head) for arrow in self.arrows)
        return len(joined) == 0 or nx.is_connected(joined)


def box(key: str, lines: list[Line], category: str, order: int, **more: Any) -> Box:
    """A box just large enough for its lines."""
    texts = tuple(Line(shorten(line.text), line.role) for line in lines)
    whole = [printable(line.text) for line in lines]
    full = None if whole == [line.text for line in texts] else "\n".join(whole)
    widths = (
        text_width(line.text, HEAD_PT if line.role == "head" else DETAIL_PT, bold=line.role in ("head", "alert"))
        for line in texts
    )
    width = max(widths) + 2 * _PADDING[0]
    height = len(texts) * _LINE_PT + 2 * _PADDING[1]
    # An octagon loses room at its corners, a note and a cube at one of them.
    if category == "blocked":
        width, height = width * 1.12 + 10, height * 1.25
    elif category == "custom":
        width += 8
    elif category == "opaque":
        width, height = width + 10, height + 6
    return Box(key, texts, category, order, math.ceil(width), math.ceil(height), full=full, **more)


def picture_of(
    graph: AutogradGraph, show: Show, *, color: Literal["order"] | MeasureName = "order", title: str | None = None
) -> Picture:
    """The picture of an autograd graph, every node a box. Leaves are copied at each use.

    Args:
        graph: a graph with the attributes of `gradgraph.graph.NODE_ATTRIBUTES`.
        show: which annotations the boxes carry.
        color: what the fill of the boxes shows.
        title: a heading.

    Raises:
        InputError: `color` is not known, or no node carries that attribute.
    """
    values = {} if color == "order" else _measured(graph, color)
    uses = _uses(graph)
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    for mark, key in _root_marks(graph):
        boxes.append(mark)
        # Of a leaf that is used, the first copy stands for the node.
        first = f"n{next(iter(uses[key]))}u{key}" if key in uses else f"n{key}"
        arrows.append(Arrow(mark.key, first, "mark"))
    for key, data in graph.nodes(data=True):
        if key not in uses:
            boxes.append(_node_box(f"n{key}", key, data, show, values))
        for child in graph.successors(key):
            about = graph.nodes[child]
            if child in uses:
                boxes.append(_leaf_box(key, child, about, uses[child], show, values))
            arrows += _arrows(graph, key, child, f"n{key}u{child}" if child in uses else f"n{child}")
    measure = None if color == "order" else _scale(color, values)
    return Picture(tuple(boxes), tuple(arrows), title, measure)


def _is_leaf(data: Mapping[str, Any]) -> bool:
    return data.get("kind") == "leaf"


def _uses(graph: AutogradGraph) -> dict[int, dict[int, int]]:
    """The consumers of each leaf and their positions, in the order in which they are drawn."""
    uses: dict[int, dict[int, int]] = {}
    for key in graph:
        for child in graph.successors(key):
            if _is_leaf(graph.nodes[child]):
                consumers = uses.setdefault(child, {})
                consumers.setdefault(key, len(consumers))
    return uses


def _node_box(name: str, key: int, data: Mapping[str, Any], show: Show, values: Mapping[int, float]) -> Box:
    lines = lines_of(data, show)
    kind, order = str(data.get("kind", "op")), int(data.get("order", 0))
    return box(name, lines, kind, order, alert=alerting(lines), measure=values.get(key))


def _leaf_box(
    consumer: int,
    key: int,
    data: Mapping[str, Any],
    consumers: Mapping[int, int],
    show: Show,
    values: Mapping[int, float],
) -> Box:
    """The stub of a leaf at one of its uses. Only the first carries annotations: a value is shown once."""
    first = consumers[consumer] == 0
    lines = lines_of(data, show if first else Show(device=show.device))
    if len(consumers) > 1:
        lines.insert(2, Line(f"use {consumers[consumer] + 1} of {len(consumers)}"))
    order = int(data.get("order", 0))
    name = f"n{consumer}u{key}"
    return box(name, lines, "leaf", order, alert=alerting(lines), copy=not first, measure=values.get(key))


def _arrows(graph: AutogradGraph, tail: int, head: int, target: str) -> Iterator[Arrow]:
    """The edges between two nodes. The first tells the slots of all: on parallel arrows labels would overlap."""
    several = graph.out_degree(tail) + graph.nodes[tail].get("detached_slots", 0) > 1
    many_outputs = len(graph.nodes[head].get("outputs") or []) > 1
    labels = []
    for slot, data in graph[tail][head].items():
        output = f"out {data.get('output_nr', 0)}" if many_outputs else ""
        labels.append(" → ".join(part for part in (str(slot) if several else "", output) if part))
    together = "\n".join(labels) if many_outputs else ", ".join(filter(None, labels))
    for index, data in enumerate(graph[tail][head].values()):
        yield Arrow(f"n{tail}", target, str(data.get("role", "gradient")), together if index == 0 else "")


def _root_marks(graph: AutogradGraph) -> Iterator[tuple[Box, int]]:
    """A mark for each node that was traced from, with the positions among the outputs where there are several."""
    roots = list(graph.graph.get("roots", []))
    places: dict[int, list[int]] = {}
    for position, key in enumerate(roots):
        if key in graph:
            places.setdefault(key, []).append(position)
    for key, positions in places.items():
        text = "root" if len(roots) == 1 else f"root {', '.join(map(str, positions))}"
        yield box(f"root{key}", [Line(text, "head")], "root", 0), key


def _first_number(value: Any, field: str) -> float | None:
    entries = value if isinstance(value, list) else [value]
    found = [float(entry[field]) for entry in entries if entry is not None and entry.get(field) is not None]
    return math.hypot(*found) if field == "norm" and found else (found[0] if found else None)


#: What each measure is called, how it is read off a node, and how its values spread.
_MEASURES: dict[str, tuple[str, Callable[[Any], float | None], Literal["log", "signed"]]] = {
    "gradient": ("gradient norm", lambda value: _first_number(value, "norm"), "log"),
    "hessian_diagonal": ("mean of Hessian diagonal", lambda value: _first_number(value, "mean"), "signed"),
    "curvature": ("curvature", float, "signed"),
    "saved_bytes": ("bytes held", float, "log"),
}


def _measured(graph: AutogradGraph, color: str) -> dict[int, float]:
    """The value of each node that has one."""
    if color not in _MEASURES:
        known = ", ".join(("order", *get_args(MeasureName)))
        raise InputError(f"color={color!r} is not known: expected one of {known}.")
    read = _MEASURES[color][1]
    found = {key: data[color] for key, data in graph.nodes(data=True) if data.get(color) is not None}
    values = {key: number for key, value in found.items() if (number := read(value)) is not None}
    if not any(map(math.isfinite, values.values())):
        raise InputError(
            f"color={color!r} needs nodes that carry {color!r}, and none has a finite value; annotate the graph first."
        )
    return values


def _scale(color: str, values: Mapping[int, float]) -> Measure:
    label, _, scale = _MEASURES[color]
    finite = [value for value in values.values() if math.isfinite(value)]
    if scale == "signed":
        reach = max(map(abs, finite))
        return Measure(label, -reach, reach, scale)
    positive = [value for value in finite if value > 0]
    return Measure(label, min(positive, default=0.0), max(positive, default=0.0), scale)
