"""Coordinates: how wide the columns are and how high the rows, with room for the arrows that run between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gradgraph.layout.across import Kept, Track, spread
from gradgraph.layout.net import Net
from gradgraph.layout.strips import Strip

__all__ = ["LABEL_PT", "MARGIN", "ROW_GAP", "Geometry", "Room", "geometry"]

ROW_GAP = 18.0
STRIP_GAP = 26.0
LANE_GAP = 54.0
MARGIN = 10.0
LABEL_PT = 26.0


@dataclass
class Room:
    """What frames need: points above and below ranks, and at either side of strips."""

    above: dict[int, float] = field(default_factory=dict)
    below: dict[int, float] = field(default_factory=dict)
    aside: float = 0.0


@dataclass
class Geometry:
    """Centres of boxes and everything that routing wants to know. `y` runs down the page here."""

    x: list[float]
    y: list[float]
    top: list[list[float]] = field(default_factory=list)  # of each row of each strip
    bottom: list[list[float]] = field(default_factory=list)
    left: list[float] = field(default_factory=list)  # of each strip
    right: list[float] = field(default_factory=list)
    height: float = 0.0


def geometry(
    net: Net,
    strips: Sequence[Strip],
    tracks: Sequence[Sequence[Track]],
    kept: Sequence[Sequence[Kept]],
    room: Room,
) -> Geometry:
    """Place the boxes, with room for frames."""
    placed = Geometry([0.0] * net.size, [0.0] * net.size)
    _across(net, strips, tracks, kept, placed, room.aside)
    _down(net, strips, placed, room)
    return placed


def _across(
    net: Net,
    strips: Sequence[Strip],
    tracks: Sequence[Sequence[Track]],
    kept: Sequence[Sequence[Kept]],
    placed: Geometry,
    aside: float,
) -> None:
    left = MARGIN + aside
    before = None
    for strip, lines, free in zip(strips, tracks, kept, strict=True):
        if before is not None:
            left += 2 * aside + (LANE_GAP if strip.lane != before.lane else STRIP_GAP)
        if strip.fixed is not None:
            places, width = strip.fixed.x, strip.fixed.width
        else:
            places, width = spread(net, strip, lines, free)
        # The longest path of the first strip stands beside the next lane.
        mirrored = before is None and strip.fixed is None
        for box, x in places.items():
            placed.x[box] = left + (width - x if mirrored else x)
        for track in lines:
            track.x = left + (width - track.x if mirrored else track.x)
        placed.left.append(left)
        left += width
        placed.right.append(left)
        before = strip


def _down(net: Net, strips: Sequence[Strip], placed: Geometry, room: Room) -> None:
    heights = [[max(net.spots[box].height for box in row) for row in strip.rows] for strip in strips]
    block: dict[int, float] = {}
    need: list[dict[int, float]] = []
    for strip, high in zip(strips, heights, strict=True):
        stack: dict[int, float] = {}
        for rank, height in zip(strip.rank_of_row, high, strict=True):
            stack[rank] = stack[rank] + ROW_GAP + height if rank in stack else height
        need.append(stack)
        for rank, height in stack.items():
            block[rank] = max(block.get(rank, 0.0), height)
    begin: dict[int, float] = {}
    y = MARGIN + LABEL_PT
    for rank in sorted(block):
        y += room.above.get(rank, 0.0)
        begin[rank] = y
        y += block[rank] + ROW_GAP + room.below.get(rank, 0.0)
    placed.height = y - ROW_GAP + MARGIN
    for strip, high, stack in zip(strips, heights, need, strict=True):
        tops: list[float] = []
        bottoms: list[float] = []
        last = None
        for rank, height, row in zip(strip.rank_of_row, high, strip.rows, strict=True):
            top = begin[rank] + (block[rank] - stack[rank]) / 2 if rank != last else bottoms[-1] + ROW_GAP
            last = rank
            tops.append(top)
            bottoms.append(top + height)
            for box in row:
                placed.y[box] = top + height / 2
        placed.top.append(tops)
        placed.bottom.append(bottoms)
