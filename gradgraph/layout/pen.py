"""Curves of straight, S-shaped and round pieces, y down the page."""

from __future__ import annotations

import math

from gradgraph.layout.spots import Point

__all__ = ["BEND", "Pen"]

BEND = 28.0  # height of an S, where there is room
_WIDE = 6.0  # times as wide as high
_ROUND = 10.0  # radius of a corner


class Pen:
    """Builds the points of a curve."""

    def __init__(self, start: Point, level: float = 0.5) -> None:
        self.points: list[Point] = [start]
        self.level = level

    def line(self, end: Point) -> None:
        """Straight on."""
        (x, y), (u, v) = self.points[-1], end
        if abs(u - x) + abs(v - y) > 0.01:
            self.points += [(x + (u - x) / 3, y + (v - y) / 3), (x + (u - x) * 2 / 3, y + (v - y) * 2 / 3), end]

    def corner(self, over: Point, end: Point) -> None:
        """Round, past a point where a straight corner would be."""
        self.points += [over, over, end]

    def bend(self, end: Point) -> None:
        """An S that leaves and arrives vertically; one that is very wide has a level piece in the middle."""
        (x, y), (u, v) = self.points[-1], end
        if abs(u - x) < 0.01:
            self.line(end)
        elif abs(u - x) < _WIDE * (v - y):
            self.points += [(x, (y + v) / 2), (u, (y + v) / 2), end]
        else:
            level = y + (v - y) * self.level
            turn = math.copysign(min(v - y, 14.0), u - x)
            self.corner((x, level), (x + turn, level))
            self.line((u - turn, level))
            self.corner((u, level), end)

    def bend_soon(self, end: Point, limit: float) -> None:
        """The same, the S at the beginning, above `limit`, and straight from there."""
        (x, y), (u, v) = self.points[-1], end
        if abs(u - x) > 0.01:
            self.bend((u, min(v, limit, y + max(BEND, abs(u - x) / 4))))
        self.line(end)

    def sway(self, end: Point) -> None:
        """An S that leaves and arrives sideways."""
        (x, y), (u, v) = self.points[-1], end
        if abs(v - y) < 0.01:
            self.line(end)
        else:
            self.points += [((x + u) / 2, y), ((x + u) / 2, v), end]

    def turn(self, x: float, end: Point) -> None:
        """Sideways to `x`, along it, and sideways on."""
        (_, y), (u, v) = self.points[-1], end
        side = math.copysign(min(_ROUND, abs(u - x), abs(x - self.points[-1][0])), u - x)
        along = math.copysign(min(_ROUND, abs(v - y) / 2), v - y)
        self.line((x - side, y))
        self.corner((x, y), (x, y + along))
        self.line((x, v - along))
        self.corner((x, v), (x + side, v))
        self.line(end)
