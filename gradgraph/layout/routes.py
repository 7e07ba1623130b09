"""The way of every arrow: planned before there are coordinates, since long ways need room, and drawn after."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gradgraph.layout.net import Net
from gradgraph.layout.places import Geometry, Track
from gradgraph.layout.spots import Point
from gradgraph.layout.strips import Strip

__all__ = ["Plan", "cut", "draw", "plan"]


@dataclass
class Plan:
    """How each arrow runs. `via` is a track, a column's box whose x it keeps to (a number), or None for straight over."""

    strip_of: list[int]
    via: list[Track | int | None]
    tracks: list[list[Track]]


def plan(net: Net, strips: Sequence[Strip]) -> Plan:
    """Which arrows need a track: those over several rows that neither end's column is free for."""
    strip_of = [0] * net.size
    for index, strip in enumerate(strips):
        for box in strip.boxes:
            strip_of[box] = index
    via: list[Track | int | None] = [None] * len(net.ends)
    long: list[list[int]] = [[] for _ in strips]
    for index, (tail, head) in enumerate(net.ends):
        if strip_of[tail] != strip_of[head] or tail == head:
            continue
        strip = strips[strip_of[tail]]
        if abs(strip.row[tail] - strip.row[head]) <= 1:
            continue
        kept = _kept(strip, tail, head)
        if kept is None:
            long[strip_of[tail]].append(index)
        else:
            via[index] = kept
    tracks = [_share(net, strip, own, via) for strip, own in zip(strips, long, strict=True)]
    return Plan(strip_of, via, tracks)


def _kept(strip: Strip, tail: int, head: int) -> int | None:
    """The end in whose column all rows between the two are free."""
    first, last = sorted((strip.row[tail], strip.row[head]))
    for box in (head, tail):
        if strip.slot[box] < 0:
            rows = strip.occupied[strip.column[box]]
            at = bisect_right(rows, first)
            if at == len(rows) or rows[at] >= last:
                return box
    return None


def _share(net: Net, strip: Strip, links: list[int], via: list[Track | int | None]) -> list[Track]:
    """Tracks for the long arrows: those with a common end share one."""
    fan: Counter[tuple[int, bool]] = Counter()
    for link in links:
        tail, head = net.ends[link]
        fan[tail, True] += 1
        fan[head, False] += 1
    groups: dict[tuple[int, bool], list[int]] = {}
    for link in links:
        tail, head = net.ends[link]
        groups.setdefault((tail, True) if fan[tail, True] > fan[head, False] else (head, False), []).append(link)
    tracks = []
    for (common, is_tail), members in groups.items():
        rows = []
        gutters: Counter[int] = Counter()
        for link in members:
            tail, head = net.ends[link]
            other = head if is_tail else tail
            rows += [strip.row[tail], strip.row[head]]
            one, two = sorted((strip.column[common], strip.column[other]))
            gutters[0 if two == 0 else one + 1] += 1
        gutter = max(sorted(gutters), key=lambda g: gutters[g])
        # Turning off happens between rows: the rows at either end are left free.
        track = Track(gutter, min(rows), max(rows) - 1)
        tracks.append(track)
        for link in members:
            via[link] = track
    return tracks


def draw(net: Net, strips: Sequence[Strip], planned: Plan, placed: Geometry) -> list[list[Point]]:
    """The Bezier points of every arrow, y down the page as in `placed`."""
    routes = []
    for index, (tail, head) in enumerate(net.ends):
        number = planned.strip_of[tail]
        if tail == head:
            routes.append(_loop(net, placed, tail))
        elif number != planned.strip_of[head]:
            routes.append(_sideways(net, placed, tail, head))
        elif strips[number].row[tail] == strips[number].row[head]:
            routes.append(_beside(net, strips[number], placed, number, tail, head))
        elif strips[number].slot[head] >= 0 and net.host[head] == tail:
            routes.append(_sideways(net, placed, tail, head))
        else:
            routes.append(_vertical(net, strips[number], placed, number, tail, head, planned.via[index]))
    return routes


def _half(net: Net, box: int) -> tuple[float, float]:
    return net.spots[box].width / 2, net.spots[box].height / 2


class _Pen:
    """Builds a curve of straight and S-shaped pieces."""

    def __init__(self, start: Point) -> None:
        self.points: list[Point] = [start]

    def line(self, end: Point) -> None:
        (x, y), (u, v) = self.points[-1], end
        if abs(u - x) + abs(v - y) > 0.01:
            self.points += [(x + (u - x) / 3, y + (v - y) / 3), (x + (u - x) * 2 / 3, y + (v - y) * 2 / 3), end]

    def bend(self, end: Point) -> None:
        """An S that leaves and arrives vertically."""
        (x, y), (u, v) = self.points[-1], end
        if abs(u - x) < 0.01:
            self.line(end)
        else:
            self.points += [(x, (y + v) / 2), (u, (y + v) / 2), end]

    def sway(self, end: Point) -> None:
        """An S that leaves and arrives sideways."""
        (x, y), (u, v) = self.points[-1], end
        self.points += [((x + u) / 2, y), ((x + u) / 2, v), end]


def _sideways(net: Net, placed: Geometry, tail: int, head: int) -> list[Point]:
    side = 1.0 if placed.x[head] > placed.x[tail] else -1.0
    pen = _Pen((placed.x[tail] + side * _half(net, tail)[0], placed.y[tail]))
    pen.sway((placed.x[head] - side * _half(net, head)[0], placed.y[head]))
    return pen.points


def _beside(net: Net, strip: Strip, placed: Geometry, number: int, tail: int, head: int) -> list[Point]:
    """Two boxes of one row: straight if they are neighbours, else by an arc below the row."""
    low, high = sorted((placed.x[tail], placed.x[head]))
    row = strip.rows[strip.row[tail]]
    if not any(low < placed.x[box] < high for box in row if box not in (tail, head)):
        return _sideways(net, placed, tail, head)
    y = placed.bottom[number][strip.row[tail]] + 9
    pen = _Pen((placed.x[tail], placed.y[tail] + _half(net, tail)[1]))
    middle = (placed.x[tail] + placed.x[head]) / 2
    pen.points += [(placed.x[tail], y), (placed.x[tail], y), (middle, y)]
    pen.points += [(placed.x[head], y), (placed.x[head], y), (placed.x[head], placed.y[head] + _half(net, head)[1])]
    return pen.points


def _vertical(
    net: Net, strip: Strip, placed: Geometry, number: int, tail: int, head: int, via: Track | int | None
) -> list[Point]:
    upper, lower = (tail, head) if strip.row[tail] < strip.row[head] else (head, tail)
    first, last = strip.row[upper], strip.row[lower]
    tops, bottoms = placed.top[number], placed.bottom[number]
    pen = _Pen((placed.x[upper], placed.y[upper] + _half(net, upper)[1]))
    end = (placed.x[lower], placed.y[lower] - _half(net, lower)[1])
    pen.line((placed.x[upper], bottoms[first]))
    if via is not None:
        x = via.x if isinstance(via, Track) else placed.x[via]
        pen.bend((x, tops[first + 1]))
        pen.line((x, bottoms[last - 1]))
    pen.bend((placed.x[lower], tops[last]))
    pen.line(end)
    if len(pen.points) == 1:
        pen.points += [end] * 3
    return pen.points if upper == tail else pen.points[::-1]


def _loop(net: Net, placed: Geometry, box: int) -> list[Point]:
    width, height = _half(net, box)
    x, y = placed.x[box] + width, placed.y[box]
    return [(x, y - height / 3), (x + 12, y - height / 3), (x + 12, y + height / 3), (x, y + height / 3)]


def cut(route: Sequence[Point], by: float) -> list[Point]:
    """The curve without its last `by` points of length, where the arrow's head goes."""
    *rest, a, b, c, d = route
    reach = _length(a, b, c, d)
    if reach <= by:
        return [*rest, a, b, c, d] if not rest else [*rest, a, b, c, d]
    low, high = 0.0, 1.0
    for _ in range(12):
        t = (low + high) / 2
        x, y = _at(a, b, c, d, t)
        near = ((x - d[0]) ** 2 + (y - d[1]) ** 2) ** 0.5 > by
        low, high = (t, high) if near else (low, t)
    t = low
    ab, bc, cd = _mix(a, b, t), _mix(b, c, t), _mix(c, d, t)
    abc, bcd = _mix(ab, bc, t), _mix(bc, cd, t)
    return [*rest, a, ab, abc, _mix(abc, bcd, t)]


def _mix(a: Point, b: Point, t: float) -> Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


def _at(a: Point, b: Point, c: Point, d: Point, t: float) -> Point:
    ab, bc, cd = _mix(a, b, t), _mix(b, c, t), _mix(c, d, t)
    return _mix(_mix(ab, bc, t), _mix(bc, cd, t), t)


def _length(a: Point, b: Point, c: Point, d: Point) -> float:
    points = [_at(a, b, c, d, t / 8) for t in range(9)]
    return sum(((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) ** 0.5 for p, q in zip(points, points[1:], strict=False))
