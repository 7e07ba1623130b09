"""A strip: the boxes of one lane that run the same way, in rows of their own and columns along the heaviest paths."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gradgraph.layout.given import Given
from gradgraph.layout.net import Net, topological
from gradgraph.layout.ranks import Ranks

__all__ = ["Strip", "strips_of"]

_LONGEST_GAP = 6  # rows over which a column is kept free for an arrow
_LONG = 256  # chains that are given a column before all others
_TRIES = 40
_STUBS = 4  # stubs below each other, beside their box


@dataclass
class Strip:
    """`row` counts the rows of this strip that hold a box; `column` counts from the side where the longest path is.

    `slot` is -1 for boxes in the middle of their column, else which place beside it a stub has.
    """

    lane: int
    down: bool
    boxes: list[int]
    row: dict[int, int] = field(default_factory=dict)
    column: dict[int, int] = field(default_factory=dict)
    slot: dict[int, int] = field(default_factory=dict)
    rank_of_row: list[int] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    occupied: list[list[int]] = field(default_factory=list)  # rows taken in the middle of each column, sorted
    chains: list[list[int]] = field(default_factory=list)  # boxes that stand in line, from top to bottom
    groups: list[list[int]] = field(default_factory=list)  # stubs below each other, beside their box
    fixed: Given | None = None  # places from elsewhere, without columns


def strips_of(net: Net, ranks: Ranks, fixed: Given | None = None) -> list[Strip]:
    """The strips from left to right, their boxes in rows and columns; the first one perhaps laid out elsewhere."""
    members: dict[tuple[int, bool], list[int]] = {}
    for box in range(net.size):
        members.setdefault((net.lane[box], ranks.down[box]), []).append(box)
    lowest = min((lane for lane, _ in members), default=0)
    # The mirror of the strip on its left comes first.
    keys = sorted(members, key=lambda key: (key[0], key[1] != ((key[0] - lowest) % 2 == 0)))
    strips = [Strip(lane, down, members[lane, down]) for lane, down in keys]
    for strip in strips:
        if fixed is not None and strip.lane == lowest:
            _take_over(strip, fixed)
            continue
        _rows(net, ranks, strip)
        _columns(net, strip)
    return strips


def _take_over(strip: Strip, fixed: Given) -> None:
    strip.fixed, strip.row = fixed, fixed.row
    strip.slot = dict.fromkeys(strip.boxes, -1)
    strip.rank_of_row = list(range(len(fixed.edges)))
    strip.rows = [[] for _ in fixed.edges]
    for box in strip.boxes:
        strip.rows[fixed.row[box]].append(box)


def _rows(net: Net, ranks: Ranks, strip: Strip) -> None:
    """Boxes of one rank that lead to each other stand in rows below each other, stubs beside or below their box."""
    inside = set(strip.boxes)
    stubs: dict[int, list[int]] = {}
    below = {net.under[box]: (box,) for box in strip.boxes if net.under[box] >= 0}
    for box in strip.boxes:
        if net.host[box] >= 0 and not net.mark[box]:
            stubs.setdefault(net.host[box], []).append(box)
    heads = {box: [h for h in net.succ[box] if h in inside and ranks.rank[h] == ranks.rank[box]] for box in inside}
    for box in strip.boxes:
        if net.mark[box]:
            heads[box].append(net.host[box])
    for box, own in stubs.items():
        if strip.down and len(own) == 1 and not any(head in inside for head in net.succ[box]):
            heads[box].append(own[0])
            strip.slot[own[0]] = -1
    standing = [box for box in strip.boxes if net.host[box] < 0 or net.mark[box] or box in strip.slot]
    order = topological(standing, lambda box: heads[box])
    level = dict.fromkeys(standing, 0)
    seen: set[int] = set()
    for box in order if strip.down else reversed(order):
        if strip.down:
            for head in heads[box]:
                if head not in seen:
                    level[head] = max(level[head], level[box] + 1)
        else:
            level[box] = max((level[head] + 1 for head in heads[box] if head in seen), default=0)
        seen.add(box)
    for box in standing:
        strip.slot[box] = -1
        own = [stub for stub in stubs.get(box, []) if stub not in level and net.under[stub] < 0]
        own = [one for stub in own for one in (stub, *below.get(stub, ()))]
        tall = max(_STUBS, math.isqrt(len(own)))
        slot = deep = 0
        for stub in own:
            if net.under[stub] < 0 < deep and deep + 1 + (stub in below) > tall:
                slot, deep = slot + 1, 0
            level[stub] = level[box] + deep
            strip.slot[stub] = slot
            deep += 1
    by_rank: dict[int, list[list[int]]] = {}
    for box in strip.boxes:
        rows = by_rank.setdefault(ranks.rank[box], [])
        while len(rows) <= level[box]:
            rows.append([])
        rows[level[box]].append(box)
    for rank in sorted(by_rank):
        for row in by_rank[rank]:
            if row:
                for box in row:
                    strip.row[box] = len(strip.rows)
                strip.rows.append(row)
                strip.rank_of_row.append(rank)


def _columns(net: Net, strip: Strip) -> None:
    chains, near = _chains(net, strip)
    strip.chains = chains
    place = _allocate([(strip.row[chain[0]], strip.row[chain[-1]]) for chain in chains], near)
    for chain, column in zip(chains, place, strict=True):
        for box in chain:
            strip.column[box] = column
    strip.occupied = [[] for _ in range(max(place, default=-1) + 1)]
    for row in strip.rows:
        for box in row:
            if strip.slot[box] < 0:
                strip.occupied[strip.column[box]].append(strip.row[box])
    # Stubs beside a column: as few places as do without two in one row.
    free: dict[tuple[int, int], int] = {}
    groups: dict[tuple[int, int], list[int]] = {}
    for row in strip.rows:
        for box in row:
            if strip.slot[box] >= 0:
                strip.column[box] = strip.column[net.host[box]]
                groups.setdefault((net.host[box], strip.slot[box]), []).append(box)
    for (host, _), group in groups.items():
        column, slot = strip.column[host], 0
        first, last = strip.row[group[0]], strip.row[group[-1]]
        while free.get((column, slot), -1) >= first:
            slot += 1
        free[column, slot] = last
        for box in group:
            strip.slot[box] = slot
        strip.groups.append(group)


def _chains(net: Net, strip: Strip) -> tuple[list[list[int]], list[int]]:
    """Paths that cover the boxes, the heaviest first, and for each the number of the one that it hangs on, or -1."""
    standing = [box for row in strip.rows for box in row if strip.slot[box] < 0]
    row = strip.row
    below: dict[int, list[int]] = {box: [] for box in standing}
    above: dict[int, list[int]] = {box: [] for box in standing}

    def join(tail: int, head: int) -> None:
        if 0 < abs(row[tail] - row[head]) <= _LONGEST_GAP:
            high, low = (tail, head) if row[tail] < row[head] else (head, tail)
            below[high].append(low)
            above[low].append(high)

    for box in standing:
        for head in net.succ[box]:
            if head in below:
                join(box, head)
        if net.host[box] in below:
            join(box, net.host[box])
    reach_up, reach_down = dict.fromkeys(standing, 1), dict.fromkeys(standing, 1)
    for box in standing:
        for low in below[box]:
            reach_up[low] = max(reach_up[low], reach_up[box] + 1)
    for box in reversed(standing):
        for high in above[box]:
            reach_down[high] = max(reach_down[high], reach_down[box] + 1)
    chains: list[list[int]] = []
    near: list[int] = []
    chain_of: dict[int, int] = {}
    for start in sorted(standing, key=lambda box: -reach_up[box] - reach_down[box]):
        if start in chain_of:
            continue
        number = len(chains)
        chain_of[start] = number

        def walk(
            step: dict[int, list[int]], reach: dict[int, int], box: int = start, number: int = number
        ) -> list[int]:
            path: list[int] = []
            while free := [b for b in step[box] if b not in chain_of]:
                here = row[box]
                box = max(free, key=lambda b: (reach[b], -abs(row[b] - here), -b))
                chain_of[box] = number
                path.append(box)
            return path

        lower, upper = walk(below, reach_down), walk(above, reach_up)
        chain = [*reversed(upper), start, *lower]
        ends = (*above[chain[0]], *below[chain[-1]])
        near.append(max((chain_of[b] for b in ends if chain_of.get(b, number) < number), default=-1))
        chains.append(chain)
    return chains, near


def _allocate(spans: Sequence[tuple[int, int]], near: Sequence[int]) -> list[int]:
    """A column for each span of rows, so that no two meet; close to the one it hangs on, long ones first."""
    column = [-1] * len(spans)
    taken: list[list[tuple[int, int]]] = []
    by_length = sorted(range(len(spans)), key=lambda index: spans[index][0] - spans[index][1])
    for index in by_length[:_LONG]:
        first, last = spans[index]
        wanted = column[near[index]] if near[index] >= 0 else 0
        nearest = sorted(range(len(taken)), key=lambda c: (abs(c - wanted), c))
        column[index] = next((c for c in nearest if _free(taken[c], first, last)), len(taken))
        if column[index] == len(taken):
            taken.append([])
        insort(taken[column[index]], (first, last))
    upto = [-1] * len(taken)
    coming = [0] * len(taken)
    outer: list[tuple[int, int]] = []  # beyond the tries: last row taken and column, the first to end on top
    for index in sorted(by_length[_LONG:], key=lambda index: spans[index]):
        first, last = spans[index]
        wanted = max(0, column[near[index]]) if near[index] >= 0 else 0
        for c in _outward(wanted, len(upto)):
            if c == len(upto):
                upto.append(-1)
                coming.append(0)
                taken.append([])
            while coming[c] < len(taken[c]) and taken[c][coming[c]][1] < first:
                coming[c] += 1
            blocked = coming[c] < len(taken[c]) and taken[c][coming[c]][0] <= last
            if upto[c] < first and not blocked:
                column[index], upto[c] = c, last
                break
        else:
            reused = heapq.heappop(outer)[1] if outer and outer[0][0] < first else len(outer)
            column[index] = -2 - reused
            heapq.heappush(outer, (last, reused))
    return [c if c >= 0 else len(upto) - 2 - c for c in column]


def _outward(wanted: int, count: int) -> Iterator[int]:
    """Columns from the wanted one on, the nearest first, and a new one; so many at most that time stays linear."""
    yield wanted if wanted < count else count
    for away in range(1, _TRIES):
        if wanted + away < count:
            yield wanted + away
        if 0 <= wanted - away < count:
            yield wanted - away
    if wanted < count < _TRIES:
        yield count


def _free(spans: list[tuple[int, int]], first: int, last: int) -> bool:
    at = bisect_left(spans, (first, -1))
    return (at == len(spans) or spans[at][0] > last) and (at == 0 or spans[at - 1][1] < first)
