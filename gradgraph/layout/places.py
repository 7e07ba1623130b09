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
    tracks: Sequence[Sequence[Track]] = ()
    height: float = 0.0


def geometry(
    net: Net,
    strips: Sequence[Strip],
    tracks: Sequence[Sequence[Track]],
    kept: Sequence[Sequence[Kept]],
    room: Room,
) -> Geometry:
    """Place the boxes, with room for frames."""
    placed = Geometry([0.0] * net.size, [0.0] * net.size, tracks=tracks)
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
    """Rows of one rank stand around one height in all lanes: the middle of those that hold more than stubs."""
    stacks = [_stacks(net, strip) for strip in strips]
    over: dict[int, float] = {}
    under: dict[int, float] = {}
    for own in stacks:
        for rank, stack in own.items():
            over[rank] = max(over.get(rank, 0.0), stack.middle)
            under[rank] = max(under.get(rank, 0.0), stack.height - stack.middle)
    middle: dict[int, float] = {}
    y = MARGIN + LABEL_PT
    for rank in sorted(over):
        y += room.above.get(rank, 0.0) + over[rank]
        middle[rank] = y
        y += under[rank] + ROW_GAP + room.below.get(rank, 0.0)
    placed.height = y - ROW_GAP + MARGIN
    for strip, own in zip(strips, stacks, strict=True):
        tops: list[float] = []
        bottoms: list[float] = []
        for rank, stack in own.items():
            y = middle[rank] - stack.middle
            for height in stack.rows:
                tops.append(y)
                bottoms.append(y + height)
                for box in strip.rows[len(tops) - 1]:
                    placed.y[box] = y + height / 2
                y += height + ROW_GAP
        placed.top.append(tops)
        placed.bottom.append(bottoms)


@dataclass
class _Stack:
    """The rows that a strip has in one rank: their heights, and where the middle of the boxes proper is."""

    rows: list[float] = field(default_factory=list)
    height: float = -ROW_GAP
    first: float | None = None
    last: float = 0.0

    @property
    def middle(self) -> float:
        return self.height / 2 if self.first is None else (self.first + self.last) / 2


def _stacks(net: Net, strip: Strip) -> dict[int, _Stack]:
    stacks: dict[int, _Stack] = {}
    for rank, row in zip(strip.rank_of_row, strip.rows, strict=True):
        stack = stacks.setdefault(rank, _Stack())
        high = max(net.spots[box].height for box in row)
        top = stack.height + ROW_GAP
        stack.rows.append(high)
        stack.height = top + high
        if any(net.host[box] < 0 for box in row):
            stack.first = top if stack.first is None else stack.first
            stack.last = stack.height
    return stacks
