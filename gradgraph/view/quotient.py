"""The view that a cut through the tree gives: what is in one box is summed, nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from gradgraph.shares import about_curvature
from gradgraph.view.clusters import Clusters
from gradgraph.view.items import Item
from gradgraph.view.labels import label_of
from gradgraph.view.reading import Reading
from gradgraph.view.sums import Sums
from gradgraph.view.views import View

__all__ = ["single_boxes", "view_of"]


class _Box(NamedTuple):
    members: list[int]
    item: Item | None
    lane: int


def view_of(reading: Reading, shown: Sequence[Item], graph: Mapping[str, Any], by: str) -> View:
    """The view that shows these items: a box for each lane of each."""
    boxes = sorted((box for item in shown for box in _boxes(item)), key=lambda box: box.members[0])
    clusters = Clusters(reading.data)
    return _quotient(reading, boxes, graph, by, clusters)


def single_boxes(reading: Reading, places: Sequence[int], graph: Mapping[str, Any]) -> View:
    """The view that shows these nodes, in ascending order, each in a box of its own, and hides the rest."""
    boxes = [_Box([place], None, reading.order[place]) for place in places]
    return _quotient(reading, boxes, graph, "none", Clusters(reading.data))


def _boxes(item: Item) -> Iterator[_Box]:
    if len(item.lanes) == 1:
        members = [member for atom in item.atoms() for member in atom.members]
        yield _Box(sorted(members), item, item.lanes[0])
        return
    lanes: dict[int, list[int]] = {lane: [] for lane in item.lanes}
    for atom in item.atoms():
        lanes[atom.lane] += atom.members
    for lane, members in lanes.items():
        yield _Box(sorted(members), item, lane)


def _quotient(reading: Reading, boxes: Sequence[_Box], graph: Mapping[str, Any], by: str, clusters: Clusters) -> View:
    box_of = [-1] * len(reading)
    for number, box in enumerate(boxes):
        for member in box.members:
            box_of[member] = number
    arrows, inner, hidden_edges, rim = _arrows(reading, boxes, box_of)
    sums = Sums(reading)
    names = clusters.names([(box.item, box.lane) for box in boxes])
    view = View()
    for number, box in enumerate(boxes):
        data = sums.of(box.members)
        data["members"] = [reading.keys[member] for member in box.members]
        data |= _description(reading, box)
        data["inner"] = dict(sorted(inner.get(number, {}).items()))
        data["clusters"] = names[number]
        made = Counter(box_of[reading.creator[member]] for member in box.members if reading.creator[member] >= 0)
        data["creators"] = {creator: count for creator, count in sorted(made.items()) if creator >= 0}
        if number in rim:
            data["hidden_in"], data["hidden_out"] = rim[number]
        view.add_node(number)
        view.nodes[number].update(data)
    for (tail, head), found in arrows.items():
        for index, data in enumerate(found):
            view.add_edge(tail, head, index)
            view.edges[tail, head, index].update(data)
    shown = sum(len(box.members) for box in boxes)
    view.graph.update(
        nodes=len(reading),
        edges=len(reading.target),
        by=by,
        hidden={"nodes": len(reading) - shown, "edges": hidden_edges},
        roots=[box_of[place] for place in _roots(reading, graph) if box_of[place] >= 0],
        orders=sorted(set(reading.order)),
        recorded=graph.get("recorded"),
        curvature=about_curvature(reading.data, graph),  # boxes tell sums, in which parts have cancelled
        clusters=clusters.table(),
    )
    return view


def _roots(reading: Reading, graph: Mapping[str, Any]) -> list[int]:
    return [reading.index[key] for key in graph.get("roots") or () if key in reading.index]


def _description(reading: Reading, box: _Box) -> dict[str, Any]:
    """What a box is called and stands for; of a single node also all that it carries."""
    first = reading.data[box.members[0]]
    if len(box.members) == 1:
        label = first.get("name")
        return {**first, "label": label if isinstance(label, str) else str(first.get("op")), "fold": None, "times": 1}
    item = box.item
    assert item is not None
    label = label_of(item, reading.data)
    about = {"kind": "folded", "label": label, "times": len(box.members) if item.members else item.total}
    if item.members:  # corresponding nodes: what they share
        return {**about, "fold": "repeat", "op": first.get("op"), "outputs": first.get("outputs")}
    return {**about, "fold": "repeat" if item.times > 1 else item.fold, "group": item.names[0] if item.names else label}


def _arrows(
    reading: Reading, boxes: Sequence[_Box], box_of: Sequence[int]
) -> tuple[dict[tuple[int, int], list[dict[str, Any]]], dict[int, Counter[str]], int, dict[int, tuple[int, int]]]:
    """Edges between boxes; those inside of each, by role; how many are hidden; neighbours hidden at the rim."""
    alone = [len(box.members) == 1 for box in boxes]
    arrows: dict[tuple[int, int], list[dict[str, Any]]] = {}
    sums: dict[tuple[int, int, str], dict[str, Any]] = {}
    inner: dict[int, Counter[str]] = {}
    consumers: dict[int, set[int]] = {}
    inputs: dict[int, set[int]] = {}
    hidden = 0
    for place in range(len(reading)):
        tail = box_of[place]
        for edge in range(reading.start[place], reading.start[place + 1]):
            target = reading.target[edge]
            head = box_of[target]
            if tail < 0 or head < 0:
                hidden += 1
                if tail >= 0:
                    inputs.setdefault(tail, set()).add(target)
                elif head >= 0:
                    consumers.setdefault(head, set()).add(place)
                continue
            about = reading.about[edge]
            role = str(about.get("role", "gradient"))
            if tail == head:
                inner.setdefault(tail, Counter())[role] += 1
            elif alone[tail] and alone[head]:
                arrow = {"role": role, "count": 1, **_own(reading, edge)}
                arrows.setdefault((tail, head), []).append(arrow)
            elif (known := sums.get((tail, head, role))) is None:
                arrow = sums[tail, head, role] = {"role": role, "count": 1, **_own(reading, edge)}
                arrows.setdefault((tail, head), []).append(arrow)
            else:
                known["count"] += 1
                known.pop("slot", None)
                known.pop("output_nr", None)
    rim = dict(zip(range(len(boxes)), repeat((0, 0)), strict=False)) if hidden else {}
    for number in rim:
        rim[number] = (len(consumers.get(number, ())), len(inputs.get(number, ())))
    return arrows, inner, hidden, rim


def _own(reading: Reading, edge: int) -> dict[str, Any]:
    return {"slot": reading.slot[edge], "output_nr": reading.about[edge].get("output_nr", 0)}
