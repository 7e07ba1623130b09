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
_CELL = 64.0  # of the grids in which neighbours are looked up
_FINE = 3.0
_BOX_MATTERS = 4.0  # how much worse a label is on a box than on a line
_MOST_SIBLINGS = 12  # arrows from one box that are compared with each other
_SEEN = 90.0  # how far from its tail a line is kept clear of labels
_TRIES = ((0.0, 1), (0.0, -1), (7.0, 1), (7.0, -1), (15.0, 1), (15.0, -1), (26.0, 1), (26.0, -1), (40.0, 1))

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


class _Crowd:
    """What labels keep clear of: rectangles by cells of a coarse grid, lines as cells of a fine one."""

    def __init__(self) -> None:
        self._rectangles: dict[tuple[int, int], list[Rectangle]] = {}
        self._lines: set[tuple[int, int]] = set()

    def add(self, place: Rectangle) -> None:
        for cell in _cells(place, _CELL):
            self._rectangles.setdefault(cell, []).append(place)

    def add_line(self, points: Sequence[Place]) -> None:
        self._lines.update((int(x // _FINE), int(y // _FINE)) for x, y in _near(points))

    def overlap(self, place: Rectangle) -> float:
        """The area of a rectangle that others cover, lines with the cells that they pass."""
        left, top, right, bottom = place
        whole = 0.0
        for cell in _cells(place, _CELL):
            for x0, y0, x1, y1 in self._rectangles.get(cell, ()):
                width, height = min(right, x1) - max(left, x0), min(bottom, y1) - max(top, y0)
                if width > 0 and height > 0:
                    whole += _BOX_MATTERS * width * height
        return whole + _FINE**2 * sum(cell in self._lines for cell in _cells(place, _FINE))


def _cells(place: Rectangle, size: float) -> Iterator[tuple[int, int]]:
    left, top, right, bottom = (int(side // size) for side in place)
    return ((x, y) for x in range(left, right + 1) for y in range(top, bottom + 1))


def labels(
    arrows: Sequence[Arrow],
    routes: Sequence[Sequence[Place]],
    boxes: Sequence[tuple[Box, Place]],
    taken: Sequence[Rectangle],
    theme: Theme,
) -> Iterator[str]:
    """The labels of all arrows as SVG, in time linear in boxes and arrows. Places have y downwards.

    Args:
        arrows: what is labelled.
        routes: the Bezier points of each.
        boxes: each with its centre.
        taken: where else no label may stand.
        theme: the colours.
    """
    shown = [index for index, arrow in enumerate(arrows) if label_of(arrow) and len(routes[index]) >= 4]
    if not shown:
        return
    crowd = _Crowd()
    for box, (x, y) in boxes:
        crowd.add((x - box.width / 2, y - box.height / 2, x + box.width / 2, y + box.height / 2))
    for place in taken:
        crowd.add(place)
    paths = {index: _sampled(route) for index, route in enumerate(routes) if len(route) >= 4}
    for points in paths.values():
        crowd.add_line(points)
    siblings: dict[str, list[int]] = {}
    for index in paths:
        siblings.setdefault(arrows[index].tail, []).append(index)
    for index in shown:
        lines = label_of(arrows[index]).split("\n")
        half_width = max(text_width(line, LABEL_PT) for line in lines) / 2
        half_height = (len(lines) * _LINE_PT - 1.5) / 2
        others = [paths[other] for other in siblings[arrows[index].tail][:_MOST_SIBLINGS] if other != index]
        x, y = _free_place(paths[index], half_width, half_height, _apart(paths[index], others), crowd)
        around = (x - half_width - 0.5, y - half_height, x + half_width + 0.5, y + half_height)
        crowd.add(around)
        first = y - (len(lines) - 1) * _LINE_PT / 2 + 2.9
        words = [text(line, x, first + i * _LINE_PT, LABEL_PT, theme.quiet) for i, line in enumerate(lines)]
        yield f'<g class="label">{rounded(*around, 2, theme.background, opacity=0.7)}{"".join(words)}</g>'


def _apart(points: Sequence[Place], others: Sequence[Sequence[Place]]) -> float:
    """How far a line runs together with one of the others: a label there would be on both."""
    together = 0.0
    for other in others:
        if math.dist(points[0], other[0]) > 4:
            continue
        near = {(int(x // 6), int(y // 6)) for x, y in _near(other)}
        gone = 0.0
        for (ax, ay), (bx, by) in pairwise(_near(points)):
            if (int(bx // 6), int(by // 6)) not in near:
                break
            gone += math.hypot(bx - ax, by - ay)
        together = max(together, gone)
    return together


def _free_place(points: Sequence[Place], half_width: float, half_height: float, start: float, crowd: _Crowd) -> Place:
    """The first place beside a line with nothing else there, else the one with the least."""
    least, best = math.inf, points[0]
    dx, dy = _direction(points)
    whole = sum(map(math.dist, points, points[1:]))
    begin = max(2.0 + abs(dx) * half_width + abs(dy) * half_height, start)
    for further, side in _TRIES:
        x, y, dx, dy = _at(points, min(begin + further, 0.6 * whole))
        nx, ny = _side(dx, dy)
        away = side * (_CLEAR + abs(nx) * half_width + abs(ny) * half_height)
        place = (x + nx * away, y + ny * away)
        left, top = place[0] - half_width, place[1] - half_height
        covered = crowd.overlap((left, top, left + 2 * half_width, top + 2 * half_height))
        if covered < least:
            least, best = covered, place
        if not covered:
            break
    return best


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
    """The point that far along a line, and the direction there."""
    left = wanted
    for (ax, ay), (bx, by) in pairwise(points):
        step = math.hypot(bx - ax, by - ay)
        if step >= left and step > 0:
            part = left / step
            return ax + (bx - ax) * part, ay + (by - ay) * part, (bx - ax) / step, (by - ay) / step
        left -= step
    return *points[-1], 0.0, 1.0


def _near(points: Sequence[Place], step: float = 3.0) -> Iterator[Place]:
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
