"""The boxes and arrows as arrays of numbers: the form in which the layout is computed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gradgraph.errors import InputError
from gradgraph.layout.spots import Link, Spot

__all__ = ["Net", "net_of", "topological"]


@dataclass
class Net:
    """Boxes are numbered as given. `host` is the box that a stub or a mark stands beside, -1 for all others."""

    spots: Sequence[Spot]
    ends: list[tuple[int, int]]
    roles: list[str]
    lane: list[int]
    host: list[int]
    mark: list[bool]
    under: list[int]  # the side box that a stub stands below, both beside their host, else -1
    succ: list[list[int]]  # core boxes only, parallel arrows once for each
    pred: list[list[int]]
    saved: list[list[int]]  # where curvature arrows lead

    @property
    def size(self) -> int:
        """How many boxes there are."""
        return len(self.spots)

    @property
    def core(self) -> list[int]:
        """The boxes that stand for themselves, in order."""
        return [box for box, host in enumerate(self.host) if host < 0]


def net_of(spots: Sequence[Spot], links: Sequence[Link]) -> Net:
    """Number the boxes and find what stands beside what.

    Raises:
        InputError: two boxes of one key, an arrow to a box that is not there, or a size that is none.
    """
    number = {spot.key: index for index, spot in enumerate(spots)}
    if len(number) < len(spots):
        twice = next(spot.key for index, spot in enumerate(spots) if number[spot.key] != index)
        raise InputError(f"lanes() needs a key of its own for each box, got {twice!r} twice; rename one.")
    for spot in spots:
        if not (0 < spot.width < math.inf and 0 < spot.height < math.inf):
            raise InputError(
                f"lanes() needs boxes of positive size in points, got {spot.width!r} × {spot.height!r} for "
                f"{spot.key!r}; size the box by its text first."
            )
    try:
        ends = [(number[link.tail], number[link.head]) for link in links]
    except KeyError as error:
        raise InputError(
            f"lanes() was given an arrow at {error.args[0]!r}, which is no box; give all boxes, or drop the arrow."
        ) from None
    roles = [link.role for link in links]
    host, mark = _hosts(spots, ends, roles)
    under = _aside(spots, ends, roles, host)
    succ: list[list[int]] = [[] for _ in spots]
    pred: list[list[int]] = [[] for _ in spots]
    saved: list[list[int]] = [[] for _ in spots]
    for (tail, head), role in zip(ends, roles, strict=True):
        if host[tail] < 0 and host[head] < 0 and tail != head:
            succ[tail].append(head)
            pred[head].append(tail)
            if role == "curvature":
                saved[tail].append(head)
    lane = [spots[box if host[box] < 0 else host[box]].order for box in range(len(spots))]
    return Net(spots, ends, roles, lane, host, mark, under, succ, pred, saved)


def _hosts(
    spots: Sequence[Spot], ends: Sequence[tuple[int, int]], roles: Sequence[str]
) -> tuple[list[int], list[bool]]:
    host = [-1] * len(spots)
    mark = [False] * len(spots)
    joined = [spot.stub for spot in spots]  # to other boxes than by a mark
    for (tail, head), role in zip(ends, roles, strict=True):
        if role != "mark":
            joined[tail] = joined[head] = True
            if spots[head].stub and not spots[tail].stub and host[head] < 0:
                host[head] = tail
    heads = {head for (_, head), role in zip(ends, roles, strict=True) if role == "mark"}
    for (tail, head), role in zip(ends, roles, strict=True):
        if role == "mark" and not joined[tail] and tail not in heads and not mark[tail]:
            mark[tail] = True
            host[tail] = head if host[head] < 0 else host[head]
    return host, mark


def _aside(
    spots: Sequence[Spot],
    ends: Sequence[tuple[int, int]],
    roles: Sequence[str],
    host: list[int],
) -> list[int]:
    """Let a box of the lowest order that stands between its only consumer and one leaf stand beside the consumer.

    So the transposition of a weight is drawn as the weight itself would be, where its consumer has other inputs.
    """
    lowest = min((spot.order for spot in spots), default=0)
    tails: list[set[int]] = [set() for _ in spots]
    heads: list[set[int]] = [set() for _ in spots]
    for (tail, head), role in zip(ends, roles, strict=True):
        heads[tail].add(head)
        if role == "mark" or spots[tail].order == lowest:  # curvature from above counts for nothing
            tails[head].add(-1 if role == "mark" else tail)
    aside = {}
    for box, spot in enumerate(spots):
        if host[box] < 0 and spot.order == lowest and len(heads[box]) == len(tails[box]) == 1:
            (stub,), (tail,) = heads[box], tails[box]
            if host[stub] == box and tail >= 0 > host[tail] and -1 not in tails[stub]:
                aside[box] = (tail, stub)
    under = [-1] * len(spots)
    for box, (tail, stub) in aside.items():
        if any(host[head] < 0 and head not in aside for head in heads[tail]):
            host[box] = host[stub] = tail
            under[stub] = box
    return under


def topological(boxes: Iterable[int], succ: Callable[[int], Iterable[int]]) -> list[int]:
    """`boxes` with tails before heads, as far as that goes: folded graphs have cycles, which are cut.

    A cycle begins at the box that is reached first from outside it.
    """
    chosen = list(boxes)
    waiting = dict.fromkeys(chosen, 0)
    for box in chosen:
        for head in succ(box):
            if head in waiting:
                waiting[head] += 1
    ready = [box for box in reversed(chosen) if waiting[box] == 0]
    order: list[int] = []
    reached: deque[int] = deque()
    rest = iter(chosen)
    while len(order) < len(chosen):
        box = ready.pop() if ready else reached.popleft() if reached else next(rest)
        if box not in waiting:
            continue
        del waiting[box]
        order.append(box)
        for head in succ(box):
            if head in waiting:
                waiting[head] -= 1
                if waiting[head] == 0:
                    ready.append(head)
                else:
                    reached.append(head)
    return order
