"""How far to the right the chains, stubs and tracks of a strip stand: as close to the left as their own rows allow."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradgraph.layout.net import Net
from gradgraph.layout.strips import Strip

__all__ = ["Kept", "Track", "spread"]

COLUMN_GAP = 16.0
SLOT_GAP = 14.0
TRACK = 8.0
_GRID = 24.0  # chains of one column mostly stand in line, since they are placed by steps
_MOST_ROWS = 60  # visited for each box; beyond that, columns are of one width throughout


@dataclass
class Track:
    """A vertical line in the gutter before a column, over the rows between two: arrows with a common end share it."""

    gutter: int
    first: int
    last: int
    x: float = 0.0


#: A box, and the rows over which the column is to be kept free for an arrow at it.
Kept = tuple[int, int, int]


class _Front:
    """How far to the right each row is taken; in rows of `flat` strips alike."""

    def __init__(self, rows: int, *, flat: bool) -> None:
        self.taken = [0.0] * (1 if flat else rows)
        self.flat = flat

    def reach(self, first: int, last: int) -> float:
        return self.taken[0] if self.flat else max(self.taken[first : last + 1], default=0.0)

    def take(self, first: int, last: int, x: float) -> None:
        if not self.flat:
            taken = self.taken
            for row in range(first, last + 1):
                taken[row] = max(taken[row], x)

    def advance(self, x: float) -> None:
        """All rows are taken up to here: only in flat strips, where nothing else counts."""
        if self.flat:
            self.taken[0] = max(self.taken[0], x)


def spread(net: Net, strip: Strip, tracks: Sequence[Track], kept: Iterable[Kept]) -> tuple[dict[int, float], float]:
    """The place of each box and, in themselves, of the tracks, from the left border on; and the width of all.

    Linear in boxes and arrows: where spans of rows add up to more, a column has one place for all its boxes.
    """
    row = strip.row
    spans: dict[int, tuple[int, int]] = {}
    for number, chain in enumerate(strip.chains):
        spans[number] = row[chain[0]], row[chain[-1]]
    number_of = {box: number for number, chain in enumerate(strip.chains) for box in chain}
    for box, first, last in kept:
        low, high = spans[number_of[box]]
        spans[number_of[box]] = min(low, first), max(high, last)
    visits = sum(last - first for first, last in spans.values()) + sum(track.last - track.first for track in tracks)
    front = _Front(len(strip.rows), flat=visits > _MOST_ROWS * len(strip.boxes))
    columns = max((strip.column[chain[0]] for chain in strip.chains), default=-1) + 1
    by_column: list[list[int]] = [[] for _ in range(columns)]
    for number, chain in enumerate(strip.chains):
        by_column[strip.column[chain[0]]].append(number)
    gutters: list[list[Track]] = [[] for _ in range(columns + 1)]
    for track in tracks:
        gutters[track.gutter].append(track)
    beside: list[list[list[int]]] = [[] for _ in range(columns)]
    for group in strip.groups:
        beside[strip.column[group[0]]].append(group)
    places: dict[int, float] = {}
    for column in range(columns + 1):
        _tracks(front, gutters[column], COLUMN_GAP if column else 0.0)
        if column < columns:
            gap = COLUMN_GAP if column else TRACK if gutters[0] else 0.0
            _chains(net, strip, front, by_column[column], spans, places, gap)
            _groups(net, strip, front, beside[column], places)
    width = max((places[box] + net.spots[box].width / 2 for box in strip.boxes), default=0.0)
    return places, max([width, *(track.x + COLUMN_GAP / 2 for track in tracks)])


def _tracks(front: _Front, tracks: list[Track], gap: float) -> None:
    """Side by side where rows meet; in flat strips, in as few lines as do."""
    start = front.reach(0, 0) + gap / 2
    busy: list[tuple[int, int]] = []  # flat strips: last row and line, the first to end on top
    for track in sorted(tracks, key=lambda track: (track.first, -track.last)):
        if not front.flat:
            before = front.reach(track.first + 1, track.last)
            track.x = before + (TRACK if before else 0.0)
            front.take(track.first + 1, track.last, track.x)
            continue
        line = heapq.heappop(busy)[1] if busy and busy[0][0] < track.first else len(busy)
        heapq.heappush(busy, (track.last, line))
        track.x = start + TRACK * line
    front.advance(max((track.x for track in tracks), default=0.0))


def _chains(
    net: Net,
    strip: Strip,
    front: _Front,
    numbers: Sequence[int],
    spans: dict[int, tuple[int, int]],
    places: dict[int, float],
    gap: float,
) -> None:
    half = {box: net.spots[box].width / 2 for number in numbers for box in strip.chains[number]}
    widest = max(half.values(), default=0.0)
    end = 0.0
    for number in numbers:
        chain, (first, last) = strip.chains[number], spans[number]
        if front.flat or gap < COLUMN_GAP:  # the first column is straight throughout
            x = front.reach(first, last) + gap + widest
        else:
            x = max(front.reach(strip.row[box], strip.row[box]) + gap + half[box] for box in chain)
            x = math.ceil(max(x, front.reach(first, last) + gap) / _GRID) * _GRID
        front.take(first, last, x)
        for box in chain:
            places[box] = x
            front.take(strip.row[box], strip.row[box], x + half[box])
            end = max(end, x + half[box])
    front.advance(end)


def _groups(net: Net, strip: Strip, front: _Front, groups: list[list[int]], places: dict[int, float]) -> None:
    """Stubs close to their boxes; in flat strips, those of one slot in one line."""
    start, end = front.reach(0, 0) if front.flat else 0.0, 0.0
    at = -1
    for group in sorted(groups, key=lambda group: (strip.slot[group[0]], strip.row[group[0]])):
        host = net.host[group[0]]
        if front.flat and strip.slot[group[0]] > at:
            at, start = strip.slot[group[0]], max(start, end)
        left = max(front.reach(strip.row[group[0]], strip.row[group[-1]]), places[host] + net.spots[host].width / 2)
        left = max(left, start) + SLOT_GAP
        wide = max(net.spots[box].width for box in group) if any(net.under[box] >= 0 for box in group) else 0.0
        for box in group:
            width = max(wide, net.spots[box].width)
            places[box] = left + width / 2
            front.take(strip.row[box], strip.row[box], left + width)
            end = max(end, left + width)
    front.advance(end)
