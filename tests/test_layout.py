"""Lanes: what holds of every layout, and where things stand in the graphs that people have."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradgraph.errors import InputError
from gradgraph.layout import Columns, Link, Placed, Spot, cut, lanes


def mirrored(rows: int, orders: int = 2, *, known: bool = True) -> tuple[list[Spot], list[Link]]:
    """A chain of `rows` boxes with a leaf each, and for each order above its mirror, chained the other way."""
    spots, links = [], []
    for row in range(rows):
        spots += [Spot(f"f{row}", 100, 30), Spot(f"w{row}", 60, 24, stub=True)]
        links.append(Link(f"f{row}", f"w{row}"))
        if row:
            links.append(Link(f"f{row - 1}", f"f{row}"))
    before = [f"f{row}" for row in range(rows)]
    for order in range(1, orders):
        own = [f"g{order}.{row}" for row in range(rows)]
        for row in range(rows):
            spots.append(Spot(own[row], 90, 30, order, ((before[row], 1.0),) if known else ()))
            links.append(Link(own[row], before[row], "curvature"))
            if row:
                links.append(Link(own[row], own[row - 1]) if order % 2 else Link(own[row - 1], own[row]))
        before = own
    return spots, links


@st.composite
def pictures(draw: st.DrawFn) -> tuple[list[Spot], list[Link]]:
    """Any boxes and arrows: cycles, loops, parallel arrows, creators that make no sense, stubs of stubs, marks."""
    count = draw(st.integers(0, 24))
    seed = draw(st.integers(0, 2**32))
    rng = random.Random(seed)
    clusters = [(), ("a",), ("a", "b"), ("a", "c"), ("d",)]
    keys = [f"n{i}" for i in range(count)]
    spots = [
        Spot(
            key,
            rng.uniform(10, 150),
            rng.uniform(10, 60),
            rng.choice([0, 0, 0, 1, 1, 2, 4]),
            tuple((rng.choice([*keys, "gone"]), rng.uniform(0.5, 3)) for _ in range(rng.choice([0, 0, 1, 2]))),
            rng.random() < 0.25,
            rng.choice(clusters),
        )
        for key in keys
    ]
    links = []
    for _ in range(draw(st.integers(0, 50)) if count else 0):
        tail, head = rng.randrange(count), rng.randrange(count)
        if rng.random() < 0.9:
            tail, head = min(tail, head), max(tail, head)
        links.append(Link(keys[tail], keys[head], rng.choice(["gradient", "gradient", "curvature", "mark"])))
    return spots, links


def rectangle(spot: Spot, placed: Placed) -> tuple[float, float, float, float]:
    x, y = placed.centres[spot.key]
    return x - spot.width / 2, y - spot.height / 2, x + spot.width / 2, y + spot.height / 2


def meet(a: Sequence[float], b: Sequence[float], by: float = 0.0) -> bool:
    return a[0] < b[2] - by and b[0] < a[2] - by and a[1] < b[3] - by and b[1] < a[3] - by


def on_border(point: tuple[float, float], spot: Spot, placed: Placed) -> bool:
    left, bottom, right, top = rectangle(spot, placed)
    x, y = point
    inside = left - 0.01 <= x <= right + 0.01 and bottom - 0.01 <= y <= top + 0.01
    return inside and min(abs(x - left), abs(x - right), abs(y - bottom), abs(y - top)) < 0.01


def check(spots: Sequence[Spot], links: Sequence[Link], placed: Placed) -> None:
    """What holds of every layout."""
    by_key = {spot.key: spot for spot in spots}
    areas = [rectangle(spot, placed) for spot in spots]
    for i, area in enumerate(areas):
        assert min(area[:2]) >= 0
        assert area[2] <= placed.width
        assert area[3] <= placed.height
        assert not any(meet(area, other, 0.001) for other in areas[:i])
    assert len(placed.routes) == len(links)
    for link, route in zip(links, placed.routes, strict=True):
        assert len(route) % 3 == 1
        assert len(route) > 1
        assert on_border(route[0], by_key[link.tail], placed)
        assert on_border(route[-1], by_key[link.head], placed)
        assert all(-0.01 <= x <= placed.width + 0.01 and -0.01 <= y <= placed.height + 0.01 for x, y in route)
    for one, next_ in zip(placed.lanes, placed.lanes[1:], strict=False):
        assert one.order < next_.order
        assert one.right < next_.left
    strips = {lane.order: lane for lane in placed.lanes}
    for spot, area in zip(spots, areas, strict=True):
        if not spot.stub and not any(link.role == "mark" and link.tail == spot.key for link in links):
            assert strips[spot.order].left - 0.001 <= area[0]
            assert area[2] <= strips[spot.order].right + 0.001
    for number, frame in enumerate(placed.frames):
        outline = (frame.left, frame.bottom, frame.right, frame.top)
        for spot, area in zip(spots, areas, strict=True):
            if meet(outline, area):
                assert frame.cluster in spot.clusters
                assert outline[0] < area[0] < area[2] < outline[2]
                assert outline[1] < area[1] < area[3] < outline[3]
        for other in placed.frames[:number]:
            inner = (other.left, other.bottom, other.right, other.top)
            within = all(a <= b for a, b in zip(outline[:2], inner[:2], strict=True)) and all(
                a >= b for a, b in zip(outline[2:], inner[2:], strict=True)
            )
            around = all(a >= b for a, b in zip(outline[:2], inner[:2], strict=True)) and all(
                a <= b for a, b in zip(outline[2:], inner[2:], strict=True)
            )
            assert within or around or not meet(outline, inner)


@settings(max_examples=300, deadline=None)
@given(pictures())
def test_whatever_is_given_nothing_overlaps_and_every_arrow_meets_its_boxes(
    picture: tuple[list[Spot], list[Link]],
) -> None:
    spots, links = picture
    placed = lanes(spots, links)
    check(spots, links, placed)
    assert placed == lanes(spots, links)
