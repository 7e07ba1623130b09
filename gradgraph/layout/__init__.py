"""Lanes: where every box and arrow of a picture stands. Pure geometry, in time linear in boxes and arrows.

An autograd graph of order k is a forward graph and its k mirrors. Order 0 is laid out in rows, from the loss at the top
down to the leaves. What its backward made stands in a lane beside it, each box in the row of its creator, running
the other way; order 2 beside that. Curvature arrows then run sideways, between neighbouring rows.

    placed = lanes(spots, links)                  # or lanes(spots, links, order0=callable that asks dot)
    placed.centres["n3"]                          # centre of a box, in points, y upwards
    placed.routes[i]                              # 3n + 1 Bezier points of links[i], border to border
    placed.lanes, placed.frames                   # strips of the orders; rectangles of the clusters
    placed.width, placed.height, placed.inferred

In DOT, `pos="{x},{y}"` of a box, `pos="e,{end} {points of cut(route, arrow length)}"` of an arrow, and
`bb="{left},{bottom},{right},{top}"` of a frame, drawn with layout="nop2", where the page is what all of these take.
Draw arrows first: where one has to cross a box it passes behind it.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

from gradgraph.layout.crossings import Crossings, make_room
from gradgraph.layout.frames import frames_of, room_for
from gradgraph.layout.given import given
from gradgraph.layout.net import net_of
from gradgraph.layout.places import LABEL_PT, MARGIN, Room, geometry
from gradgraph.layout.ranks import ranks_of
from gradgraph.layout.routes import cut, draw, plan
from gradgraph.layout.spots import Columns, Frame, Lane, Link, Order0, Placed, Point, Route, Spot
from gradgraph.layout.strips import strips_of

__all__ = [
    "LABEL_PT",
    "Columns",
    "Frame",
    "Lane",
    "Link",
    "Order0",
    "Placed",
    "Point",
    "Route",
    "Spot",
    "cut",
    "lanes",
]


def lanes(spots: Sequence[Spot], links: Sequence[Link], *, order0: Order0 | None = None) -> Placed:
    """Place every box, route every arrow.

    Args:
        spots: the boxes, in the order in which they are drawn.
        links: the arrows between them.
        order0: what lays out the lowest order; None for columns along the heaviest paths, in linear time.

    Returns:
        The layout: no two boxes meet, lanes stand beside each other from the lowest order on.

    Raises:
        InputError: two boxes of one key, an arrow to a box that is not there, or a box without a size.
    """
    collecting = gc.isenabled()
    gc.disable()  # millions of small tuples and no cycles: a collection only costs time
    try:
        return _lanes(spots, links, order0)
    finally:
        if collecting:
            gc.enable()


def _lanes(spots: Sequence[Spot], links: Sequence[Link], order0: Order0 | None) -> Placed:
    net = net_of(spots, links)
    fixed = given(net, spots, links, order0) if order0 is not None else None
    ranks = ranks_of(net, fixed.row if fixed else None)
    strips = strips_of(net, ranks, fixed)
    planned = plan(net, strips)
    placed = geometry(net, strips, planned.tracks, planned.kept, Room())
    clustered = any(spot.clusters for spot in spots)
    room = room_for(net, ranks, strips, placed) if clustered else Room()
    if room.aside:
        placed = geometry(net, strips, planned.tracks, planned.kept, room)
    crossings = Crossings(net, strips, planned.strip_of, placed, room.aside)
    make_room(crossings, [ends for ends in net.ends if planned.strip_of[ends[0]] != planned.strip_of[ends[1]]])
    height = placed.height
    drawn = draw(net, strips, planned, placed, crossings)
    routes = [tuple((x, height - y) for x, y in route) for route in drawn]
    sides: dict[int, tuple[float, float]] = {}
    for strip, left, right in zip(strips, placed.left, placed.right, strict=True):
        before = sides.get(strip.lane, (left, right))
        sides[strip.lane] = (min(before[0], left - room.aside), max(before[1], right + room.aside))
    return Placed(
        centres={spot.key: (placed.x[box], height - placed.y[box]) for box, spot in enumerate(spots)},
        routes=routes,
        lanes=[
            Lane(order, left, right, ((left + right) / 2, height - MARGIN - LABEL_PT / 2))
            for order, (left, right) in sides.items()
        ],
        frames=frames_of(net, strips, placed) if clustered else [],
        width=max(placed.right, default=0.0) + room.aside + MARGIN,
        height=height,
        inferred=ranks.inferred,
    )
