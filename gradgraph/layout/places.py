"""Coordinates: how wide the columns are and how high the rows, with room for the arrows that run between them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradgraph.layout.net import Net
from gradgraph.layout.strips import Strip

__all__ = ["LABEL_PT", "MARGIN", "ROW_GAP", "Geometry", "Room", "Track", "geometry"]

ROW_GAP = 18.0
COLUMN_GAP = 16.0
SLOT_GAP = 14.0
TRACK = 6.0
STRIP_GAP = 26.0
LANE_GAP = 54.0
MARGIN = 10.0
LABEL_PT = 26.0


@dataclass
class Track:
    """A vertical line in the gutter left of a column, over some rows: arrows with a common end share it."""

    gutter: int
    first: int
    last: int
    x: float = 0.0


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
    room: Room,
) -> Geometry:
    """Place the boxes, with room for frames."""
    placed = Geometry([0.0] * net.size, [0.0] * net.size)
    _across(net, strips, tracks, placed, room.aside)
    _down(net, strips, placed, room)
    return placed


def _across(
    net: Net, strips: Sequence[Strip], tracks: Sequence[Sequence[Track]], placed: Geometry, aside: float
) -> None:
    left = MARGIN + aside
    before = None
    below_of = {net.under[stub]: stub for stub in range(net.size) if net.under[stub] >= 0}
    for strip, own in zip(strips, tracks, strict=True):
        if before is not None:
            left += 2 * aside + (LANE_GAP if strip.lane != before.lane else STRIP_GAP)
        mirrored = before is None  # the longest path beside the next lane
        before = strip
        if strip.fixed is not None:
            for box, place in strip.fixed.x.items():
                placed.x[box] = left + place
            placed.left.append(left)
            left += strip.fixed.width
            placed.right.append(left)
            continue
        lines = _number(own)
        columns = len(strip.occupied)
        wide: list[dict[int, float]] = [{} for _ in range(columns)]
        for box in strip.boxes:
            column, slot = strip.column[box], strip.slot[box]
            wide[column][slot] = max(wide[column].get(slot, 0.0), net.spots[box].width)
        at: dict[tuple[int, int], float] = {}
        gutters: list[float] = []
        x = 0.0
        for column in range(columns + 1):
            gutters.append(x + COLUMN_GAP / 2)
            x += lines.get(column, 0) * TRACK + (COLUMN_GAP if 0 < column < columns or lines.get(column) else 0.0)
            if column < columns:
                for slot in sorted(wide[column]):
                    x += SLOT_GAP if slot >= 0 and min(wide[column]) != slot else 0.0
                    at[column, slot] = x + wide[column][slot] / 2
                    x += wide[column][slot]
        for box in strip.boxes:
            place = at[strip.column[box], strip.slot[box]]
            if strip.slot[box] >= 0:  # close to its box
                other = net.under[box] if net.under[box] >= 0 else below_of.get(box, box)
                broad = max(net.spots[box].width, net.spots[other].width)
                place += (broad - wide[strip.column[box]][strip.slot[box]]) / 2
            placed.x[box] = left + (x - place if mirrored else place)
        for track in own:
            track.x = gutters[track.gutter] + track.x * TRACK
            track.x = left + (x - track.x if mirrored else track.x)
        placed.left.append(left)
        placed.right.append(left + x)
        left += x


def _number(tracks: Sequence[Track]) -> dict[int, int]:
    """Give every track a line of its gutter, in `x`, so that no two meet; how many lines each gutter has."""
    count: dict[int, int] = {}
    ended: dict[int, list[tuple[int, int]]] = {}
    free: dict[int, list[int]] = {}
    for track in sorted(tracks, key=lambda track: (track.first, -track.last)):
        busy, open_ = ended.setdefault(track.gutter, []), free.setdefault(track.gutter, [])
        while busy and busy[0][0] < track.first:
            heapq.heappush(open_, heapq.heappop(busy)[1])
        if open_:
            line = heapq.heappop(open_)
        else:
            line = count.get(track.gutter, 0)
            count[track.gutter] = line + 1
        heapq.heappush(busy, (track.last, line))
        track.x = float(line)
    return count


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
