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


@settings(max_examples=100, deadline=None)
@given(pictures(), st.integers(0, 2**32))
def test_places_from_elsewhere_keep_their_columns_and_never_overlap(
    picture: tuple[list[Spot], list[Link]], seed: int
) -> None:
    spots, links = picture
    rng = random.Random(seed)

    def scattered(own: Sequence[Spot], inside: Sequence[Link]) -> Columns:
        return Columns({spot.key: (rng.uniform(0, 300), 40.0 * rng.randrange(5)) for spot in own})

    check(spots, links, lanes(spots, links, order0=scattered))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("orders", [1, 2, 3, 5])
def test_every_order_is_a_lane_and_every_box_stands_in_the_row_of_its_creator(orders: int, known: bool) -> None:
    spots, links = mirrored(6, orders, known=known)
    placed = lanes(spots, links)
    check(spots, links, placed)
    assert [lane.order for lane in placed.lanes] == list(range(orders))
    assert placed.inferred == (orders > 1 and not known)
    for row in range(6):
        heights = {placed.centres[f"f{row}"][1], *(placed.centres[f"g{order}.{row}"][1] for order in range(1, orders))}
        assert len(heights) == 1
    for keys in (["f0", "f3", "f5"], *([f"g{order}.0", f"g{order}.4"] for order in range(1, orders))):
        assert len({placed.centres[key][0] for key in keys}) == 1, "a chain stands straight"
    # Curvature between neighbours is a level line through nothing.
    if orders > 1:
        route = placed.routes[links.index(Link("g1.2", "f2", "curvature"))]
        assert {y for _, y in route} == {placed.centres["f2"][1]}


def test_a_stub_stands_beside_its_box_and_a_transposed_weight_as_the_weight_would() -> None:
    spots = [Spot(key, 100, 30) for key in ("mm", "t", "tanh", "in")]
    spots += [Spot("w", 60, 24, stub=True), Spot("b", 60, 24, stub=True)]
    links = [Link(*ends.split()) for ends in ("mm t", "mm b", "mm tanh", "t w", "tanh in")]
    placed = lanes(spots, links)
    check(spots, links, placed)
    x = {key: place[0] for key, place in placed.centres.items()}
    y = {key: place[1] for key, place in placed.centres.items()}
    assert x["mm"] == x["tanh"] == x["in"]
    assert y["mm"] == y["t"] or y["mm"] == y["b"]
    assert x["t"] == x["w"]
    assert y["t"] > y["w"] > y["tanh"]
    assert abs(x["mm"] - x["t"]) < 130


def test_what_squares_a_gradient_goes_on_beside_it_and_what_sums_them_all_comes_last() -> None:
    spots, links = mirrored(8)
    for row in range(8):
        spots.append(Spot(f"square{row}", 80, 30, 1))
        links += [Link(f"square{row}", f"g1.{row}"), Link("sum", f"square{row}")]
    spots.append(Spot("sum", 80, 30, 1))
    spots.append(Spot("root", 40, 20))
    links.append(Link("root", "sum", "mark"))
    placed = lanes(spots, links)
    check(spots, links, placed)
    rows = [placed.centres[f"f{row}"][1] for row in range(8)]
    for row in range(7):
        assert rows[row] >= placed.centres[f"square{row}"][1] > rows[row + 1]
    lowest = min(y for key, (_, y) in placed.centres.items() if key not in ("sum", "root"))
    assert placed.centres["root"][1] < placed.centres["sum"][1] < lowest
    left = next(lane.left for lane in placed.lanes if lane.order == 1)
    assert placed.centres["root"][0] > left, "the mark of a root stands in the lane of what it marks"


def test_a_second_forward_on_updated_parameters_runs_down_beside_the_first() -> None:
    spots, links = mirrored(10)
    for row in range(10):
        spots += [Spot(f"updated{row}", 80, 30, 1), Spot(f"again{row}", 80, 30, 1)]
        links += [Link(f"updated{row}", f"g1.{row}"), Link(f"again{row}", f"updated{row}")]
        if row:
            links.append(Link(f"again{row - 1}", f"again{row}"))
    placed = lanes(spots, links)
    check(spots, links, placed)
    heights = [placed.centres[f"again{row}"][1] for row in range(10)]
    assert heights == sorted(heights, reverse=True)
    assert len({placed.centres[f"again{row}"][0] for row in range(9)}) == 1
    span = placed.centres["f0"][1] - placed.centres["f9"][1]
    assert heights[0] - heights[-1] <= 1.5 * span, "it shares the rows of the first"


def test_long_arrows_run_beside_the_boxes() -> None:
    spots = [Spot(f"n{i}", 80, 30) for i in range(12)]
    links = [Link(f"n{i}", f"n{i + 1}") for i in range(11)] + [Link("n1", "n9"), Link("n2", "n9"), Link("n4", "n11")]
    placed = lanes(spots, links)
    check(spots, links, placed)
    for link, route in zip(links, placed.routes, strict=True):
        for spot in spots:
            if spot.key not in (link.tail, link.head):
                left, bottom, right, top = rectangle(spot, placed)
                assert not any(left < x < right and bottom < y < top for x, y in sampled(route))


def sampled(route: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    points = []
    for start in range(0, len(route) - 1, 3):
        a, b, c, d = route[start : start + 4]
        for step in range(21):
            t = step / 20
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            points.append(
                (
                    sum(w * p[0] for w, p in zip(weights, (a, b, c, d), strict=True)),
                    sum(w * p[1] for w, p in zip(weights, (a, b, c, d), strict=True)),
                )
            )
    return points


def test_frames_hold_their_boxes_alone_nest_and_leave_room_for_a_label() -> None:
    clusters: list[tuple[str, ...]] = [(), ("a",), ("a", "b"), ("a", "b"), ("a",), (), ("c",), ("d",), ("c",)]
    spots = [Spot(f"n{i}", 80, 30, clusters=cluster) for i, cluster in enumerate(clusters)]
    links = [Link(f"n{i}", f"n{i + 1}") for i in range(8)]
    placed = lanes(spots, links)
    check(spots, links, placed)
    frames = {frame.cluster: frame for frame in placed.frames}
    assert set(frames) == {"a", "b", "d"}, "a frame around c would hold d's box"
    a, b = frames["a"], frames["b"]
    assert a.left < b.left < b.right < a.right
    assert a.bottom < b.bottom < b.top < a.top
    for name, first in (("a", "n1"), ("b", "n2"), ("d", "n7")):
        frame, top = frames[name], placed.centres[first][1] + 15
        assert frame.top - 10.5 <= frame.label[1] <= frame.top - 9
        assert frame.label[1] > top, "the label is above the first box"


def test_the_places_and_ways_of_dot_are_stretched_to_the_rows_of_the_lanes() -> None:
    spots, links = mirrored(3)
    spots += [Spot(f"extra{i}", 80, 30, 1, (("f1", 1.0),)) for i in range(2)]
    links += [Link("g1.1", "extra0"), Link("extra0", "extra1")]

    def by_dot(own: Sequence[Spot], inside: Sequence[Link]) -> Columns:
        assert {spot.key for spot in own} == {"f0", "f1", "f2", "w0", "w1", "w2"}
        centres = {f"{kind}{row}": (100.0 * (kind == "w"), -50.0 * row) for kind in "fw" for row in range(3)}
        route = ((0.0, -15.0), (0.0, -20.0), (0.0, -30.0), (0.0, -35.0))
        return Columns(centres, [route if link == Link("f0", "f1") else None for link in inside])

    placed = lanes(spots, links, order0=by_dot)
    check(spots, links, placed)
    x, y = placed.centres["f0"]
    assert placed.centres["w0"] == (x + 100, y)
    assert y - placed.centres["f1"][1] > 60, "row 1 is as high as the three boxes of order 1 in it"
    route = placed.routes[links.index(Link("f0", "f1"))]
    assert [place[0] for place in route] == [x] * 4
    assert route[0][1] == y - 15
    assert route[-1][1] == pytest.approx(placed.centres["f1"][1] + 15)


def test_the_end_of_a_curve_is_cut_off_for_the_head_of_its_arrow() -> None:
    route = ((0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 0.0), (3.5, 0.0), (4.0, 0.0), (4.5, 0.0))
    assert cut(route, 0.5)[-1] == pytest.approx((4.0, 0.0), abs=0.01)
    shorter = cut(route, 2.5)
    assert len(shorter) == 4
    assert shorter[-1] == pytest.approx((2.0, 0.0), abs=0.01)
    assert math.dist(cut(route, 99.0)[-1], (0.0, 0.0)) < 0.01


def test_nothing_and_one() -> None:
    empty = lanes([], [])
    assert (empty.centres, empty.routes, empty.lanes, empty.frames) == ({}, [], [], [])
    assert lanes([Spot("a", 50, 20, order=3)], []).lanes[0].order == 3


@pytest.mark.parametrize(
    ("spots", "links", "message"),
    [
        ([Spot("a", 1, 1), Spot("a", 1, 1)], [], "a key of its own for each box, got 'a' twice"),
        ([Spot("a", 1, math.nan)], [], "positive size in points, got 1 × nan for 'a'"),
        ([Spot("a", 0, 1)], [], "positive size"),
        ([Spot("a", 1, 1)], [Link("a", "b")], "an arrow at 'b', which is no box"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(spots: list[Spot], links: list[Link], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        lanes(spots, links)


def test_a_layout_that_forgets_a_box_is_refused() -> None:
    with pytest.raises(InputError, match="gave no place for the box 'a'"):
        lanes([Spot("a", 9, 9)], [], order0=lambda own, inside: Columns({}))


@pytest.mark.parametrize("orders", [1, 2])
def test_time_is_linear(orders: int) -> None:
    """Counted in calls of functions, which do not depend on the machine."""
    few, many = (_calls(*mirrored(rows, orders)) for rows in (500, 4_000))
    assert many < 8 * few * 1.1


def _calls(spots: list[Spot], links: list[Link]) -> int:
    import cProfile

    profile = cProfile.Profile()
    profile.runcall(lanes, spots, links)
    return sum(entry.callcount for entry in profile.getstats())


def test_a_folded_loop_stands_below_what_leads_into_it() -> None:
    """Repeated blocks folded into one make a cycle: the last block leads to the first."""
    keys = ("add", "mlp", "norm", "head", "loss", "embedding")
    spots = [Spot(key, 80, 30) for key in keys]
    ends = ("loss head", "head add", "add mlp", "mlp norm", "norm add", "add add", "norm embedding")
    placed = lanes(spots, links := [Link(*pair.split()) for pair in ends])
    check(spots, links, placed)
    heights = [placed.centres[key][1] for key in ("loss", "head", "add", "mlp", "norm", "embedding")]
    assert heights == sorted(heights, reverse=True)
    assert len({placed.centres[key][0] for key in keys}) == 1
