"""The lowest order as `dot` laid it out: its rows kept and stretched, its arrows stretched with them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from gradgraph.errors import InputError
from gradgraph.layout.net import Net
from gradgraph.layout.spots import Link, Order0, Point, Route, Spot

__all__ = ["Given", "given", "stretched"]

_SAME_ROW = 1.0  # points between centres of one row
_APART = 8.0  # points between boxes that were laid out over each other


@dataclass
class Given:
    """Rows, counted from the top, places from the left border on, and the routes of some arrows, y down the page."""

    row: dict[int, int]
    x: dict[int, float]
    width: float
    edges: list[tuple[float, float]]  # top and bottom of each row
    routes: dict[int, list[Point]]


def given(net: Net, spots: Sequence[Spot], links: Sequence[Link], order0: Order0) -> Given:
    """Ask for the places of the lowest order.

    Raises:
        InputError: a box has none.
    """
    lowest = min(net.lane, default=0)
    boxes = [box for box in range(net.size) if net.lane[box] == lowest]
    inside = [i for i, (tail, head) in enumerate(net.ends) if net.lane[tail] == net.lane[head] == lowest]
    columns = order0([spots[box] for box in boxes], [links[i] for i in inside])
    centres = [columns.centres.get(spots[box].key, (math.nan, math.nan)) for box in boxes]
    if not all(math.isfinite(x) and math.isfinite(y) for x, y in centres):
        wrong = next(box for box, (x, y) in zip(boxes, centres, strict=True) if not math.isfinite(x + y))
        raise InputError(f"order0() gave no place for the box {spots[wrong].key!r}: expected x and y in points.")
    rows: list[list[int]] = []
    x = {box: place[0] for box, place in zip(boxes, centres, strict=True)}
    height = {box: -place[1] for box, place in zip(boxes, centres, strict=True)}
    for box in sorted(boxes, key=lambda box: (height[box], x[box])):
        if not rows or height[box] > height[rows[-1][0]] + _SAME_ROW:
            rows.append([])
        rows[-1].append(box)
    for row in rows:
        row.sort(key=lambda box: x[box])
        for one, other in pairwise(row):
            room = (spots[one].width + spots[other].width) / 2
            if x[other] < x[one] + room:
                x[other] = x[one] + room + _APART
    half = [max(spots[box].height for box in row) / 2 for row in rows]
    edges = [(height[row[0]] - h, height[row[0]] + h) for row, h in zip(rows, half, strict=True)]
    routes: dict[int, list[Point]] = {}
    found: Sequence[Route | None] = columns.routes
    for index, route in zip(inside, found, strict=False):
        if route is not None and len(route) % 3 == 1 and len(route) > 1:
            routes[index] = [(u, -v) for u, v in route]
    every = [u for route in routes.values() for u, _ in route]
    left = min([x[box] - spots[box].width / 2 for box in boxes] + every, default=0.0)
    right = max([x[box] + spots[box].width / 2 for box in boxes] + every, default=0.0)
    return Given(
        row={box: number for number, row in enumerate(rows) for box in row},
        x={box: place - left for box, place in x.items()},
        width=right - left,
        edges=edges,
        routes={index: [(u - left, v) for u, v in route] for index, route in routes.items()},
    )


def stretched(found: Given, tops: Sequence[float], bottoms: Sequence[float], left: float) -> dict[int, list[Point]]:
    """The routes where the rows now reach from `tops` to `bottoms`: heights between rows in proportion."""
    old = [y for edge in found.edges for y in edge]
    new = [y for edge in zip(tops, bottoms, strict=True) for y in edge]

    def moved(y: float) -> float:
        at = bisect_right(old, y) - 1
        if at < 0:
            return y - old[0] + new[0]
        if at == len(old) - 1 or old[at + 1] <= old[at]:
            return y - old[at] + new[at]
        return new[at] + (y - old[at]) * (new[at + 1] - new[at]) / (old[at + 1] - old[at])

    return {index: [(left + u, moved(v)) for u, v in route] for index, route in found.routes.items()}
