"""The labels of arrows: each near the tail of its arrow, beside the line, where neither box nor line is in the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from gradgraph.render.arrows import label_of
from gradgraph.render.font import text_width
from gradgraph.render.picture import Arrow, Box
from gradgraph.render.shapes import Place, rounded, text
from gradgraph.render.theme import Theme

__all__ = ["LABEL_PT", "labels"]

LABEL_PT = 8.0
_LINE_PT = 9.5
_CLEAR = 2.5  # between a label and its line
_CELL = 64.0  # of the grid in which neighbours are looked up
_SEEN = 90.0  # how far from its tail a line is kept clear of labels
_TRIES = ((0.0, 1), (0.0, -1), (7.0, 1), (7.0, -1), (15.0, 1), (15.0, -1), (26.0, 1), (26.0, -1), (40.0, 1))

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


class _Crowd:
    """Rectangles by cells of a grid."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], list[Rectangle]] = {}

    def add(self, place: Rectangle) -> None:
        for cell in self._around(place):
            self._cells.setdefault(cell, []).append(place)

    def overlap(self, place: Rectangle) -> float:
        """The area of a rectangle that others cover, lines counting as one square point each."""
        left, top, right, bottom = place
        whole = 0.0
        for cell in self._around(place):
            for x0, y0, x1, y1 in self._cells.get(cell, ()):
                width, height = min(right, x1) - max(left, x0), min(bottom, y1) - max(top, y0)
                if width > 0 and height > 0:
                    whole += max(width * height, 1.0)
        return whole

    @staticmethod
    def _around(place: Rectangle) -> Iterator[tuple[int, int]]:
        left, top, right, bottom = (math.floor(side / _CELL) for side in place)
        return ((x, y) for x in range(left, right + 1) for y in range(top, bottom + 1))


def labels(
    arrows: Sequence[Arrow], routes: Sequence[Sequence[Place]], boxes: Sequence[tuple[Box, Place]], theme: Theme
) -> Iterator[str]:
    """The labels of all arrows as SVG, in time linear in boxes and arrows. Places have y downwards.

    Args:
        arrows: what is labelled.
        routes: the Bezier points of each.
        boxes: each with its centre.
        theme: the colours.
    """
    shown = [index for index, arrow in enumerate(arrows) if label_of(arrow) and len(routes[index]) >= 4]
    if not shown:
        return
    crowd = _Crowd()
    for box, (x, y) in boxes:
        crowd.add((x - box.width / 2, y - box.height / 2, x + box.width / 2, y + box.height / 2))
    paths = {index: _sampled(route) for index, route in enumerate(routes) if len(route) >= 4}
    for points in paths.values():
        for x, y in _near(points):
            crowd.add((x - 0.5, y - 0.5, x + 0.5, y + 0.5))
    for index in shown:
        lines = label_of(arrows[index]).split("\n")
        half_width = max(text_width(line, LABEL_PT) for line in lines) / 2
        half_height = (len(lines) * _LINE_PT - 1.5) / 2
        places = [_beside(paths[index], half_width, half_height, *attempt) for attempt in _TRIES]
        best = _first_free(places, half_width, half_height, crowd)
        x, y = best
        around = (x - half_width - 0.5, y - half_height, x + half_width + 0.5, y + half_height)
        crowd.add(around)
        first = y - (len(lines) - 1) * _LINE_PT / 2 + 2.9
        words = [text(line, x, first + i * _LINE_PT, LABEL_PT, theme.quiet) for i, line in enumerate(lines)]
        yield f'<g class="label">{rounded(*around, 2, theme.background, opacity=0.7)}{"".join(words)}</g>'


def _first_free(places: list[Place], half_width: float, half_height: float, crowd: _Crowd) -> Place:
    """The first place with nothing else there, else the one with the least."""
    least, best = math.inf, places[0]
    for x, y in places:
        covered = crowd.overlap((x - half_width, y - half_height, x + half_width, y + half_height))
        if covered < least:
            least, best = covered, (x, y)
        if not covered:
            break
    return best


def _beside(points: Sequence[Place], half_width: float, half_height: float, further: float, side: int) -> Place:
    """The middle of a label beside a line, clear of the box that the line comes from."""
    dx, dy = _direction(points)
    x, y, dx, dy = _at(points, 2.0 + further + abs(dx) * half_width + abs(dy) * half_height)
    nx, ny = _side(dx, dy)
    away = side * (_CLEAR + abs(nx) * half_width + abs(ny) * half_height)
    return x + nx * away, y + ny * away


def _side(dx: float, dy: float) -> Place:
    """The side of a line for its label: left of those that run up or down, above those that run sideways.

    Between, the outer side of a fan of arrows.
    """
    if abs(dx) < 0.35:
        return -abs(dy), dx if dy > 0 else -dx
    if abs(dy) < 0.35:
        return dy if dx > 0 else -dy, -abs(dx)
    return math.copysign(dy, dx), -math.copysign(dx, dy)


def _direction(points: Sequence[Place]) -> Place:
    """The direction in which a line starts."""
    x, y = points[0]
    end = next((point for point in points if math.dist(point, points[0]) > 4), points[-1])
    far = math.dist(points[0], end) or 1.0
    return (end[0] - x) / far, (end[1] - y) / far


def _at(points: Sequence[Place], wanted: float) -> tuple[float, float, float, float]:
    """The point that far along a line, though not beyond 60 % of it, and the direction there."""
    left = min(wanted, 0.6 * sum(map(math.dist, points, points[1:])))
    for (ax, ay), (bx, by) in pairwise(points):
        step = math.hypot(bx - ax, by - ay)
        if step >= left and step > 0:
            part = left / step
            return ax + (bx - ax) * part, ay + (by - ay) * part, (bx - ax) / step, (by - ay) / step
        left -= step
    return *points[-1], 0.0, 1.0


def _near(points: Sequence[Place], step: float = 5.0) -> Iterator[Place]:
    """Points close to each other along the first part of a line."""
    gone = 0.0
    for (ax, ay), (bx, by) in pairwise(points):
        length = math.hypot(bx - ax, by - ay)
        count = max(1, int(min(length, _SEEN - gone) / step))
        for index in range(count):
            part = index * step / length if length else 0.0
            yield ax + (bx - ax) * part, ay + (by - ay) * part
        gone += length
        if gone >= _SEEN:
            return


def _sampled(route: Sequence[Place], parts: int = 6) -> list[Place]:
    """Points on a route, `parts` for each of its pieces."""
    found = []
    for at in range(0, len(route) - 3, 3):
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = route[at : at + 4]
        for index in range(parts):
            t = index / parts
            s = 1 - t
            a, b, c, d = s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t
            found.append((a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3))
    return [*found, route[-1]]
