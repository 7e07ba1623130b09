"""Rectangles around clusters: only where one holds exactly its boxes, so that no frame lies."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from gradgraph.layout.net import Net
from gradgraph.layout.places import Geometry, Room
from gradgraph.layout.ranks import Ranks
from gradgraph.layout.spots import Frame
from gradgraph.layout.strips import Strip

__all__ = ["FRAME_PAD", "frames_of", "room_for"]

FRAME_PAD = 6.0
_LABEL_PT = 13.0
_LABEL_AT = (6.0, 10.0)  # from the left top corner to the label's baseline

Member = tuple[str, int]  # cluster and number of the strip


@dataclass
class _Box:
    """A rectangle, y down the page, and the number of boxes within."""

    left: float
    top: float
    right: float
    bottom: float
    count: int = 0
    nested: int = 0  # frames within each other, this one counted

    def take(self, other: _Box) -> None:
        self.left, self.right = min(self.left, other.left), max(self.right, other.right)
        self.top, self.bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        self.nested = max(self.nested, other.nested)

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def room_for(net: Net, ranks: Ranks, strips: Sequence[Strip], placed: Geometry) -> Room:
    """The room that those frames need that could be drawn around the boxes as they stand."""
    chosen = _chosen(net, strips, placed, pad=0.0, label=0.0)
    members: dict[Member, list[int]] = {}
    for number, strip in enumerate(strips):
        for box in strip.boxes:
            for cluster in net.spots[box].clusters:
                if (cluster, number) in chosen:
                    members.setdefault((cluster, number), []).append(box)
    first: dict[tuple[int, int], int] = {}
    last: dict[tuple[int, int], int] = {}
    for (_, number), boxes in members.items():
        found = [ranks.rank[box] for box in boxes]
        first[number, min(found)] = first.get((number, min(found)), 0) + 1
        last[number, max(found)] = last.get((number, max(found)), 0) + 1
    above: dict[int, float] = {}
    below: dict[int, float] = {}
    for (_, rank), count in first.items():
        above[rank] = max(above.get(rank, 0.0), count * (FRAME_PAD + _LABEL_PT))
    for (_, rank), count in last.items():
        below[rank] = max(below.get(rank, 0.0), count * FRAME_PAD)
    return Room(above, below, FRAME_PAD * max((box.nested for box in chosen.values()), default=0))


def frames_of(net: Net, strips: Sequence[Strip], placed: Geometry) -> list[Frame]:
    """The frames of the boxes as they stand, outer ones first."""
    chosen = _chosen(net, strips, placed, pad=FRAME_PAD, label=_LABEL_PT)
    high = placed.height
    return [
        Frame(
            cluster,
            strips[number].lane,
            box.left,
            high - box.bottom,
            box.right,
            high - box.top,
            (box.left + _LABEL_AT[0], high - box.top - _LABEL_AT[1]),
        )
        for (cluster, number), box in chosen.items()
    ]


def _chosen(net: Net, strips: Sequence[Strip], placed: Geometry, *, pad: float, label: float) -> dict[Member, _Box]:
    """The rectangles that hold their own boxes alone, and lie within each other or apart."""
    chosen: dict[Member, _Box] = {}
    for number, strip in enumerate(strips):
        found = _around(net, strip, placed, pad, label)
        whole = [cluster for cluster, box in found.items() if _only(net, strip, placed, number, box)]
        kept: list[tuple[str, _Box]] = []
        inside: dict[str, set[str]] = {}
        for box_number in strip.boxes:
            path = net.spots[box_number].clusters
            for depth, cluster in enumerate(path):
                inside.setdefault(cluster, set()).update(path[:depth])
        open_: list[tuple[str, _Box]] = []
        for cluster in sorted(whole, key=lambda name: (found[name].top, -found[name].bottom, found[name].left)):
            box = found[cluster]
            open_ = [(name, other) for name, other in open_ if other.bottom > box.top]
            if all(name in inside[cluster] or cluster in inside[name] or not other.meets(box) for name, other in open_):
                open_.append((cluster, box))
                kept.append((cluster, box))
        chosen |= {(cluster, number): box for cluster, box in kept}
    return chosen


def _around(net: Net, strip: Strip, placed: Geometry, pad: float, label: float) -> dict[str, _Box]:
    """For each cluster the rectangle around its boxes and the rectangles within."""
    found: dict[str, _Box] = {}
    parents: dict[str, str] = {}
    for box in strip.boxes:
        spot = net.spots[box]
        if spot.clusters:
            x, y = placed.x[box], placed.y[box]
            own = _Box(x - spot.width / 2, y - spot.height / 2, x + spot.width / 2, y + spot.height / 2)
            for outer, cluster in zip((None, *spot.clusters), spot.clusters, strict=False):
                if outer is not None:
                    parents[cluster] = outer
                found.setdefault(cluster, _Box(own.left, own.top, own.right, own.bottom)).count += 1
            found[spot.clusters[-1]].take(own)
    depth: dict[str, int] = {}
    for cluster in found:
        path = [cluster]
        while path[-1] in parents and path[-1] not in depth and len(path) <= len(found):
            path.append(parents[path[-1]])
        for name in reversed(path):
            depth[name] = depth.get(parents.get(name, ""), 0) + 1
    for cluster in sorted(found, key=lambda name: -depth[name]):
        area = found[cluster]
        area.left, area.right = area.left - pad, area.right + pad
        area.top, area.bottom = area.top - pad - label, area.bottom + pad
        area.nested += 1
        if cluster in parents:
            found[parents[cluster]].take(area)
    return found


def _only(net: Net, strip: Strip, placed: Geometry, number: int, area: _Box) -> bool:
    """Whether no other box of the strip is touched."""
    row = bisect_left(placed.bottom[number], area.top)
    count = 0
    while row < len(strip.rows) and placed.top[number][row] < area.bottom:
        for box in strip.rows[row]:
            half, high = net.spots[box].width / 2, net.spots[box].height / 2
            x, y = placed.x[box], placed.y[box]
            count += area.meets(_Box(x - half, y - high, x + half, y + high))
        row += 1
    return count == area.count
