"""The way of every arrow: planned before there are coordinates, since long ways need room, and drawn after."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from gradgraph.layout.across import Kept, Track
from gradgraph.layout.crossings import Crossings
from gradgraph.layout.given import stretched
from gradgraph.layout.net import Net
from gradgraph.layout.pen import BEND, Pen
from gradgraph.layout.places import Geometry
from gradgraph.layout.spots import Point
from gradgraph.layout.strips import Strip

__all__ = ["Plan", "cut", "draw", "plan"]


_LONG = 40  # rows
_LEVELS = (0.3, 0.7, 0.4, 0.6)
_LEAD = 5.0  # points up to which a box may be lower than its row without a straight piece for it


@dataclass
class Plan:
    """How each arrow runs: `via` a track, the box in whose column it stays, or None for straight over."""

    strip_of: list[int]
    via: list[Track | int | None]
    tracks: list[list[Track]]
    kept: list[list[Kept]]


def plan(net: Net, strips: Sequence[Strip]) -> Plan:
    """Which arrows need a track: those over several rows that neither end's column is free for."""
    strip_of = [0] * net.size
    for index, strip in enumerate(strips):
        for box in strip.boxes:
            strip_of[box] = index
    via: list[Track | int | None] = [None] * len(net.ends)
    long: list[list[int]] = [[] for _ in strips]
    free: list[list[Kept]] = [[] for _ in strips]
    for index, (tail, head) in enumerate(net.ends):
        if strip_of[tail] != strip_of[head] or tail == head:
            continue
        strip = strips[strip_of[tail]]
        if strip.fixed is not None or abs(strip.row[tail] - strip.row[head]) <= 1:
            continue
        kept = _kept(strip, tail, head)
        if kept is None:
            long[strip_of[tail]].append(index)
        else:
            via[index] = kept
            first, last = sorted((strip.row[tail], strip.row[head]))
            free[strip_of[tail]].append((kept, first + 1, last - 1))
    tracks = [_share(net, strip, own, via) for strip, own in zip(strips, long, strict=True)]
    return Plan(strip_of, via, tracks, free)


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
        if gutter and max(rows) - min(rows) > max(_LONG, len(strip.rows) // 4):
            gutter = len(strip.occupied)  # beyond all columns, so that they need not make room
        # Turning off happens between rows: the rows at either end are left free.
        track = Track(gutter, min(rows), max(rows) - 1)
        tracks.append(track)
        for link in members:
            via[link] = track
    return tracks


def draw(net: Net, strips: Sequence[Strip], planned: Plan, placed: Geometry, crossings: Crossings) -> list[list[Point]]:
    """The Bezier points of every arrow, y down the page as in `placed`."""
    routes = []
    drawn: dict[int, list[Point]] = {}
    for strip, tops, bottoms, left in zip(strips, placed.top, placed.bottom, placed.left, strict=True):
        if strip.fixed is not None:
            drawn |= stretched(strip.fixed, tops, bottoms, left)
    for index, (tail, head) in enumerate(net.ends):
        number = planned.strip_of[tail]
        if index in drawn:
            routes.append(drawn[index])
        elif tail == head:
            routes.append(_loop(net, placed, tail))
        elif number != planned.strip_of[head]:
            routes.append(crossings.way(tail, head))
        elif strips[number].row[tail] == strips[number].row[head]:
            routes.append(_beside(net, strips[number], placed, number, tail, head))
        elif strips[number].slot[head] >= 0 and net.host[head] == tail:
            routes.append(_sideways(net, placed, tail, head))
        else:
            routes.append(_vertical(net, strips[number], placed, number, tail, head, planned.via[index]))
    return routes


def _half(net: Net, box: int) -> tuple[float, float]:
    return net.spots[box].width / 2, net.spots[box].height / 2


def _sideways(net: Net, placed: Geometry, tail: int, head: int) -> list[Point]:
    side = 1.0 if placed.x[head] > placed.x[tail] else -1.0
    pen = Pen((placed.x[tail] + side * _half(net, tail)[0], placed.y[tail]))
    pen.sway((placed.x[head] - side * _half(net, head)[0], placed.y[head]))
    return pen.points


def _beside(net: Net, strip: Strip, placed: Geometry, number: int, tail: int, head: int) -> list[Point]:
    """Two boxes of one row: straight if they are neighbours, else by an arc below the row."""
    low, high = sorted((placed.x[tail], placed.x[head]))
    row = strip.rows[strip.row[tail]]
    if not any(low < placed.x[box] < high for box in row if box not in (tail, head)):
        return _sideways(net, placed, tail, head)
    y = placed.bottom[number][strip.row[tail]] + 9
    pen = Pen((placed.x[tail], placed.y[tail] + _half(net, tail)[1]))
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
    # Wide turns of different boxes between two rows: above and below the middle, which is for those between lanes.
    pen = Pen((placed.x[upper], placed.y[upper] + _half(net, upper)[1]), _LEVELS[lower % len(_LEVELS)])
    end = (placed.x[lower], placed.y[lower] - _half(net, lower)[1])
    if bottoms[first] - pen.points[0][1] > _LEAD:
        pen.line((placed.x[upper], bottoms[first]))
    if via is not None:
        x = via.x if isinstance(via, Track) else placed.x[via]
        pen.bend_soon((x, max(bottoms[last - 1], tops[last] - BEND)), tops[first + 1])
    arrive = (placed.x[lower], tops[last]) if end[1] - tops[last] > _LEAD else end
    if via is None:
        pen.bend_soon(arrive, tops[last])
    else:
        pen.bend(arrive)
    pen.line(end)
    if len(pen.points) == 1:
        pen.points += [end] * 3
    return pen.points if upper == tail else pen.points[::-1]


def _loop(net: Net, placed: Geometry, box: int) -> list[Point]:
    width, height = _half(net, box)
    x, y = placed.x[box] + width, placed.y[box]
    return [(x, y - height / 3), (x + 9, y - height / 3), (x + 9, y + height / 3), (x, y + height / 3)]


def cut(route: Sequence[Point], by: float) -> list[Point]:
    """The curve without its last `by` points of length, where the arrow's head goes."""
    points = list(route)
    while True:
        reach = _length(*points[-4:])
        if reach > by or len(points) == 4:
            break
        by -= reach
        del points[-3:]
    *rest, a, b, c, d = points
    low, high = 0.0, 1.0
    for _ in range(12):
        t = (low + high) / 2
        x, y = _at(a, b, c, d, t)
        low, high = (t, high) if math.dist((x, y), d) > by else (low, t)
    ab, bc, cd = _mix(a, b, low), _mix(b, c, low), _mix(c, d, low)
    abc, bcd = _mix(ab, bc, low), _mix(bc, cd, low)
    return [*rest, a, ab, abc, _mix(abc, bcd, low)]


def _mix(a: Point, b: Point, t: float) -> Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


def _at(a: Point, b: Point, c: Point, d: Point, t: float) -> Point:
    ab, bc, cd = _mix(a, b, t), _mix(b, c, t), _mix(c, d, t)
    return _mix(_mix(ab, bc, t), _mix(bc, cd, t), t)


def _length(a: Point, b: Point, c: Point, d: Point) -> float:
    points = [_at(a, b, c, d, t / 8) for t in range(9)]
    return sum(math.dist(p, q) for p, q in pairwise(points))
