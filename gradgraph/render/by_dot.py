"""Places by Graphviz's `dot`: boxes in ranks, arrows around them. Only sizes go in, only coordinates come out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from gradgraph.layout.spots import Frame, Link, Placed, Point, Route, Spot
from gradgraph.render.image import lay_out
from gradgraph.render.picture import Cluster

__all__ = ["placed_by_dot"]

_GROUP = re.compile(r'<g id="([neg])(\d+)" class="(?:node|edge|cluster)">(.*?)</g>', re.DOTALL)
_OUTLINE = re.compile(r'<polygon [^>]*points="([^"]*)"')
_PATH = re.compile(r'<path [^>]*\bd="([^"]*)"')
_NUMBER = re.compile(r"-?\d+\.?\d*")
_SHIFT = re.compile(r"translate\(([-\d.]+)[ ,]+([-\d.]+)\)")
_SIZE = re.compile(r'<svg width="([0-9.]+)pt" height="([0-9.]+)pt"')
_FRAME_LABEL = (6.0, 11.0)  # from the frame's top left corner


def placed_by_dot(
    spots: Sequence[Spot],
    links: Sequence[Link],
    clusters: Sequence[Cluster] = (),
    *,
    together: bool = False,
    engine: str = "auto",
    timeout: float = 20.0,
) -> Placed:
    """Place boxes and route arrows. `together`: components that nothing joins stand beside each other.

    Raises:
        RenderError: no engine is there, or none succeeds in time.
    """
    if not spots:
        return Placed({}, [], [], width=90.0, height=20.0)
    turned = _turned(spots, links)
    source = _source(spots, links, clusters, together, turned)
    svg = lay_out(source.encode(), engine=engine, layout="dot", timeout=timeout).decode("utf-8", "replace")
    size, shift = _SIZE.search(svg), _SHIFT.search(svg)
    width, height = (float(size[1]), float(size[2])) if size else (0.0, 0.0)
    dx, dy = (float(shift[1]), float(shift[2])) if shift else (0.0, 0.0)
    centres: dict[str, Point] = {}
    routes: list[Route] = [()] * len(links)
    frames: list[Frame] = []
    for what, number, inside in _GROUP.findall(svg):
        index = int(number)
        if what == "e":
            path = _PATH.search(inside)
            points = tuple(_points(path[1], dx, dy, height)) if path else ()
            routes[index] = points[::-1] if index in turned else points
            continue
        outline = _OUTLINE.search(inside)
        if outline is None:
            continue
        xs, ys = zip(*_points(outline[1], dx, dy, height), strict=True)
        left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
        if what == "n":
            centres[spots[index].key] = ((left + right) / 2, (bottom + top) / 2)
        else:
            label = (left + _FRAME_LABEL[0], top - _FRAME_LABEL[1])
            frames.append(Frame(clusters[index].name, 0, left, bottom, right, top, label))
    return Placed(centres, routes, [], frames, width, height)


def _points(text: str, dx: float, dy: float, height: float) -> Iterator[Point]:
    """The points of a path or polygon, y upwards."""
    numbers = list(map(float, _NUMBER.findall(text)))
    return ((x + dx, height - y - dy) for x, y in zip(numbers[::2], numbers[1::2], strict=True))


def _turned(spots: Sequence[Spot], links: Sequence[Link]) -> set[int]:
    """The links that lead back: from one of the equal parts that boxes stand for to the next.

    Depth first from where nothing leads to, which is where the backward pass begins. Left to itself, `dot` breaks such
    cycles anywhere, cluster by cluster.
    """
    leaving: dict[str, list[int]] = {spot.key: [] for spot in spots}
    reached = set()
    for index, link in enumerate(links):
        leaving[link.tail].append(index)
        reached.add(link.head)
    turned: set[int] = set()
    state: dict[str, bool] = {}  # whether the walk is still below it
    for start in [key for key in leaving if key not in reached] + list(leaving):
        if start in state:
            continue
        state[start] = True
        stack = [(start, iter(leaving[start]))]
        while stack:
            key, rest = stack[-1]
            index = next(rest, -1)
            if index < 0:
                state[key] = False
                stack.pop()
                continue
            head = links[index].head
            if head not in state:
                state[head] = True
                stack.append((head, iter(leaving[head])))
            elif state[head] and head != key:
                turned.add(index)
    return turned


def _source(
    spots: Sequence[Spot], links: Sequence[Link], clusters: Sequence[Cluster], together: bool, turned: Collection[int]
) -> str:
    """A DOT graph of nothing but sizes."""
    number = {spot.key: index for index, spot in enumerate(spots)}
    stubs = {spot.key for spot in spots if spot.stub}
    lines = [
        "digraph { graph [rankdir=TB, nodesep=0.17, ranksep=0.32, pad=0, margin=0]",
        'node [shape=box, fixedsize=true, margin=0, label=""]; edge [arrowhead=none]',
    ]
    for index, spot in enumerate(spots):
        lines.append(f"n{index} [id=n{index}, width={spot.width / 72:.3f}, height={spot.height / 72:.3f}]")
    lines += _groups(spots, clusters, number, together)
    for index, link in enumerate(links):
        # Gradient edges between operations weigh more: chains of them stand straight, leaves and curvature beside
        # them. A chain of 1,000 operations on one weight is 300 points wide instead of 55,000.
        weight = ", weight=2" if link.role == "gradient" and link.head not in stubs else ""
        ends = (link.head, link.tail) if index in turned else (link.tail, link.head)
        lines.append(f"n{number[ends[0]]} -> n{number[ends[1]]} [id=e{index}{weight}]")
    return "\n".join([*lines, "}"])


def _groups(
    spots: Sequence[Spot], clusters: Sequence[Cluster], number: Mapping[str, int], together: bool
) -> Iterator[str]:
    """Nested subgraphs. One around all, if asked: components that nothing joins would be packed below each other."""
    inside: dict[str | None, list[str]] = {}
    for spot in spots:
        inside.setdefault(spot.clusters[-1] if spot.clusters else None, []).append(f"n{number[spot.key]}")
    children: dict[str | None, list[int]] = {}
    names = {cluster.name for cluster in clusters}
    for index, cluster in enumerate(clusters):
        children.setdefault(cluster.parent if cluster.parent in names else None, []).append(index)

    def group(index: int) -> str:
        cluster = clusters[index]
        within = " ".join(map(group, children.get(cluster.name, [])))
        keys = " ".join(inside.get(cluster.name, []))
        label = 'label=" ", fontsize=9, labeljust=l, margin=9'
        return f"subgraph cluster_{index} {{ graph [id=g{index}, {label}] {keys} {within} }}"

    if together:
        yield 'subgraph cluster_all { graph [style=invis, label="", margin=0]'
    yield " ".join(inside.get(None, []))
    yield from map(group, children.get(None, []))
    if together:
        yield "}"
