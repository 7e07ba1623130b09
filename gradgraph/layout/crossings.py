"""The ways of arrows from strip to strip: level along the rows, and up or down in the gaps between the strips."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradgraph.layout.net import Net
from gradgraph.layout.pen import Pen
from gradgraph.layout.places import ROW_GAP, Geometry
from gradgraph.layout.spots import Point
from gradgraph.layout.strips import Strip

__all__ = ["Crossings", "make_room"]

_LINE = 6.0  # between vertical lines in a gap
_MARGIN = 14.0  # between the outer ones and the strips
_SHORT = 130.0  # points up or down that an S does well


@dataclass
class Crossings:
    """What the ways between strips depend on. `lines` are the x of the long vertical pieces, by gap, end and height."""

    net: Net
    strips: Sequence[Strip]
    strip_of: Sequence[int]
    placed: Geometry
    aside: float
    lines: dict[tuple[int, int, float], float] = field(default_factory=dict)
    spans: dict[tuple[int, int, float], tuple[float, float]] = field(default_factory=dict)
    ends: list[list[tuple[int, int]]] = field(default_factory=list)  # leftmost and rightmost box of each row

    def __post_init__(self) -> None:
        x = self.placed.x
        self.ends = [
            [(min(row, key=x.__getitem__), max(row, key=x.__getitem__)) for row in s.rows] for s in self.strips
        ]

    def way(self, tail: int, head: int) -> list[Point]:
        """The curve from `tail` to `head`."""
        one, other = self.strip_of[tail], self.strip_of[head]
        right = other > one
        begin = self._leave(tail, one, right=right, low=self.placed.y[head] >= self.placed.y[tail])
        pen = Pen(begin[0])
        pen.points = begin
        end = self._leave(head, other, right=not right, low=begin[-1][1] > self.placed.y[head])
        pen.line((self._border(one, right=right), begin[-1][1]))
        step = 1 if right else -1
        for number in range(one + step, other, step):
            self._gap(pen, number, _free(self.placed, number, pen.points[-1][1]), head, right=right)
            pen.line((self._border(number, right=right), pen.points[-1][1]))
        self._gap(pen, other, end[-1][1], head, right=right)
        pen.line(end[-1])
        return pen.points + end[-2::-1]

    def _border(self, number: int, *, right: bool) -> float:
        return self.placed.right[number] if right else self.placed.left[number]

    def _leave(self, box: int, number: int, *, right: bool, low: bool) -> list[Point]:
        """Out of the side of a box that is the last of its row; else through the gap below or above the row."""
        net, placed, row = self.net, self.placed, self.strips[number].row[box]
        half, side = net.spots[box].width / 2, 1.0 if right else -1.0
        x, y, high = placed.x[box], placed.y[box], net.spots[box].height / 2
        if self.ends[number][row][1 if right else 0] == box:
            return [(x + side * half, y)]
        x += side * half / 2
        rim, gap = (placed.bottom[number][row], ROW_GAP / 2) if low else (placed.top[number][row], -ROW_GAP / 2)
        pen = Pen((x, y + high if low else y - high))
        pen.line((x, rim))
        pen.corner((x, rim + gap), (x + side * ROW_GAP / 2, rim + gap))
        return pen.points

    def _gap(self, pen: Pen, number: int, height: float, head: int, *, right: bool) -> None:
        """Through the gap before a strip: by an S, or far up or down by a line that arrows to one end share."""
        end = (self._border(number, right=not right), height)
        y = pen.points[-1][1]
        key = (number - 1 if right else number, head, height)
        if abs(height - y) > _SHORT:
            first, last = self.spans.get(key, (y, y))
            self.spans[key] = min(first, y, height), max(last, y, height)
        if key in self.lines and abs(height - y) > _SHORT:
            pen.turn(self.lines[key], end)
        else:
            pen.sway(end)


def make_room(crossings: Crossings, arrows: Sequence[tuple[int, int]]) -> None:
    """Give every long vertical piece a line of its own, and move strips apart where a gap is too narrow for them."""
    for tail, head in arrows:
        crossings.way(tail, head)
    placed, gaps = crossings.placed, len(crossings.strips) - 1
    by_gap: list[list[tuple[int, int, float]]] = [[] for _ in range(gaps)]
    for key in crossings.spans:
        by_gap[key[0]].append(key)
    shift = 0.0
    for gap in range(gaps):
        own, count = _numbered(crossings, by_gap[gap])
        left, right = placed.right[gap] + crossings.aside, placed.left[gap + 1] + shift - crossings.aside
        wide = max(right - left, (count - 1) * _LINE + 2 * _MARGIN) if count else right - left
        middle = left + wide / 2
        for key, line in own.items():
            crossings.lines[key] = middle + (line - (count - 1) / 2) * _LINE
        shift += wide - (right - left)
        _move(crossings, gap + 1, shift)


def _numbered(
    crossings: Crossings, keys: list[tuple[int, int, float]]
) -> tuple[dict[tuple[int, int, float], int], int]:
    busy: list[tuple[float, int]] = []
    own: dict[tuple[int, int, float], int] = {}
    for key in sorted(keys, key=lambda key: (crossings.spans[key][0], -crossings.spans[key][1], key)):
        first, last = crossings.spans[key]
        line = heapq.heappop(busy)[1] if busy and busy[0][0] < first else len(busy)
        heapq.heappush(busy, (last, line))
        own[key] = line
    return own, len(busy)


def _move(crossings: Crossings, number: int, by: float) -> None:
    """Move a strip to the right."""
    placed = crossings.placed
    placed.left[number] += by
    placed.right[number] += by
    for box in crossings.strips[number].boxes:
        placed.x[box] += by
    for track in placed.tracks[number]:
        track.x += by


def _free(placed: Geometry, number: int, y: float) -> float:
    """The height nearest to `y` at which a strip can be crossed."""
    tops, bottoms = placed.top[number], placed.bottom[number]
    row = bisect_right(tops, y + 3) - 1
    if row < 0 or y > bottoms[row] + 3:
        return y
    high, low = tops[row] - ROW_GAP / 2, bottoms[row] + ROW_GAP / 2
    return high if y - high < low - y else low
