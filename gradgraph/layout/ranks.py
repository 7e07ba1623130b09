"""The row of every box, shared by all lanes, and which way its backward runs: down the page or up."""

from __future__ import annotations

from collections.abc import Sequence

from gradgraph.layout.net import Net, topological

__all__ = ["Ranks", "ranks_of"]


_BLUR = 2  # rows
_CLEAR = 8  # at least one in so many boxes has to say which way its part runs


class Ranks:
    """`rank` counts rows from the top; `down` tells boxes whose arrows lead down the page."""

    def __init__(self, net: Net) -> None:
        self.rank: list[int] = [0] * net.size
        self.known: list[bool] = [False] * net.size
        self.down: list[bool] = [True] * net.size
        self.inferred = False

    def put(self, box: int, rank: int, *, down: bool) -> None:
        """Settle a box."""
        self.rank[box], self.known[box], self.down[box] = rank, True, down


def ranks_of(net: Net, given: dict[int, int] | None = None) -> Ranks:
    """Rows of all boxes. `given` are those of the lowest lane, where something else has laid it out."""
    ranks = Ranks(net)
    members: dict[int, list[int]] = {}
    for box in net.core:
        members.setdefault(net.lane[box], []).append(box)
    lanes = sorted(members)
    key = {spot.key: index for index, spot in enumerate(net.spots)}
    creators = [[(key[name], weight) for name, weight in spot.creators if name in key] for spot in net.spots]
    ranks.inferred = len(lanes) > 1 and not any(creators[box] for lane in lanes[1:] for box in members[lane])
    for lane in lanes:
        if lane == lanes[0]:
            if given is None:
                _layer(net, ranks, members[lane])
            else:
                for box in members[lane]:
                    ranks.put(box, given[box], down=True)
            for box, host in enumerate(net.host):  # creators may be stubs
                if host >= 0 and net.lane[box] == lane:
                    ranks.put(box, (given or {}).get(box, ranks.rank[host]), down=True)
        else:
            _lane(net, ranks, members[lane], creators)
    for box, host in enumerate(net.host):
        if host >= 0 and not (given is not None and net.lane[box] == lanes[0]):
            ranks.put(box, ranks.rank[host], down=ranks.down[host])
    return ranks


def _layer(net: Net, ranks: Ranks, boxes: list[int]) -> None:
    """Order 0: as many rows below the root as the longest way takes; what the main root does not reach, low."""
    inside = set(boxes)
    order = topological(boxes, lambda box: net.succ[box])
    place = {box: index for index, box in enumerate(order)}
    heads = {box: [head for head in net.succ[box] if head in inside and place[head] > place[box]] for box in order}
    depth = dict.fromkeys(order, 0)
    for box in order:
        for head in heads[box]:
            depth[head] = max(depth[head], depth[box] + 1)
    length = dict.fromkeys(order, 0)
    for box in reversed(order):
        length[box] = max((length[head] + 1 for head in heads[box]), default=0)
    main = max(order, key=lambda box: (length[box], -place[box]))
    reached = {main}
    for box in order:
        if box in reached:
            reached.update(heads[box])
    for box in reversed(order):
        if box not in reached and heads[box]:
            depth[box] = min(ranks.rank[head] for head in heads[box]) - 1
        ranks.put(box, depth[box], down=True)


def _lane(net: Net, ranks: Ranks, boxes: list[int], creators: Sequence[Sequence[tuple[int, float]]]) -> None:
    """A higher order: what a backward made at its creators' rows, all else by what it consumes."""
    anchored = set()
    for box in boxes:
        found = [(made, weight) for made, weight in creators[box] if ranks.known[made]]
        if not found and ranks.inferred:
            found = _saved_by(net, ranks, box)
        if found:
            rank = _median([(ranks.rank[made], weight) for made, weight in found])
            downward = sum(weight if ranks.down[made] else -weight for made, weight in found)
            ranks.put(box, rank, down=downward < 0)
            anchored.add(box)
    inside = set(boxes)
    inner, stack = set(), list(anchored)
    while stack:
        for head in net.succ[stack.pop()]:
            if head in inside and head not in anchored and head not in inner:
                inner.add(head)
                stack.append(head)
    order = topological(boxes, lambda box: net.succ[box])
    _between(net, ranks, [box for box in order if box in inner], inner, inside)
    rest = [box for box in order if box not in anchored and box not in inner]
    for part in _parts(net, rest):
        _ordinary(net, ranks, part)


def _saved_by(net: Net, ranks: Ranks, box: int) -> list[tuple[int, float]]:
    """In place of creators: the boxes of the highest order below that curvature leads to."""
    heads = [head for head in net.saved[box] if net.lane[head] < net.lane[box] and ranks.known[head]]
    highest = max((net.lane[head] for head in heads), default=0)
    return [(head, 1.0) for head in heads if net.lane[head] == highest]


def _median(values: list[tuple[int, float]]) -> int:
    values.sort()
    half = sum(weight for _, weight in values) / 2
    passed = 0.0
    for value, weight in values:
        passed += weight
        if passed >= half:
            return value
    return values[-1][0]


def _between(net: Net, ranks: Ranks, order: list[int], inner: set[int], inside: set[int]) -> None:
    """Boxes without a creator that one with a creator consumes: between their neighbours, along the flow."""
    for box in order:  # those that consume them come first
        tails = [tail for tail in net.pred[box] if ranks.known[tail] and tail in inside]
        if not tails:  # in a cycle of a folded graph
            tails = [head for head in net.succ[box] if ranks.known[head]] or [box]
        ranks.down[box] = 2 * sum(ranks.down[tail] for tail in tails) > len(tails)
        bounds = [ranks.rank[tail] for tail in tails]
        ranks.rank[box] = max(bounds) if ranks.down[box] else min(bounds)
        ranks.known[box] = True
    for box in reversed(order):
        limit, sign = ranks.rank[box], -1 if ranks.down[box] else 1
        heads = [head for head in net.succ[box] if head in inside and ranks.known[head]]
        if heads:
            nearest = max(sign * ranks.rank[head] + (head in inner) for head in heads)
            ranks.rank[box] = sign * min(nearest, sign * limit)


def _parts(net: Net, boxes: list[int]) -> list[list[int]]:
    """Connected parts, each with tails before heads."""
    inside, part = set(boxes), {}
    for start in boxes:
        if start in part:
            continue
        part[start] = start
        stack = [start]
        while stack:
            box = stack.pop()
            for other in (*net.succ[box], *net.pred[box]):
                if other in inside and other not in part:
                    part[other] = start
                    stack.append(other)
    parts: dict[int, list[int]] = {}
    for box in boxes:
        parts.setdefault(part[box], []).append(box)
    return list(parts.values())


def _ordinary(net: Net, ranks: Ranks, part: list[int]) -> None:
    """Operations that no backward made: each at the row of what it consumes, or a row further along its own flow."""
    reach: dict[int, tuple[int, int]] = {}  # first and last row of all that is consumed in the end
    inside = set(part)
    for box in reversed(part):
        rows = [(ranks.rank[head],) * 2 for head in _consumed(net, ranks, box, inside)]
        rows += [reach[head] for head in net.succ[box] if head in reach]
        if rows:
            reach[box] = min(first for first, _ in rows), max(last for _, last in rows)
    # What hangs on one row alone goes on from there, in the same direction: the square of a gradient, an update.
    # Without creators, what stands in one row is known to a row or two.
    spread = _BLUR if ranks.inferred else 0
    private = [box for box in part if box in reach and reach[box][1] - reach[box][0] <= spread]
    consumed = [head for box in private for head in _consumed(net, ranks, box, inside)]
    upward = sum(-1 if ranks.down[head] else 1 for head in consumed) >= 0
    _flow(net, ranks, private, upward=upward)
    alone = set(private)
    rest = [box for box in part if box not in alone]
    anchors = {box: _consumed(net, ranks, box, set(rest)) for box in rest}
    _flow(net, ranks, rest, upward=_runs_up(net, ranks, rest, anchors))


def _flow(net: Net, ranks: Ranks, part: list[int], *, upward: bool) -> None:
    """Rows for boxes whose arrows lead up or down the page."""
    inside = set(part)
    sign = 1 if upward else -1
    seen: set[int] = set()
    for box in reversed(part):
        bounds = [sign * ranks.rank[head] for head in _consumed(net, ranks, box, inside)]
        bounds += [sign * ranks.rank[head] + 1 for head in net.succ[box] if head in inside and head in seen]
        if bounds:
            ranks.put(box, sign * max(bounds), down=not upward)
            seen.add(box)
    for box in part:  # constants, and parts that hang on nothing
        if box not in seen:
            bounds = [sign * ranks.rank[tail] - 1 for tail in net.pred[box] if ranks.known[tail]]
            ranks.put(box, sign * min(bounds) if bounds else 0, down=not upward)


def _consumed(net: Net, ranks: Ranks, box: int, inside: set[int]) -> list[int]:
    heads = [head for head in net.succ[box] if head not in inside and ranks.known[head]]
    highest = max((net.lane[head] for head in heads), default=0)
    return [head for head in heads if net.lane[head] == highest]


def _runs_up(net: Net, ranks: Ranks, part: list[int], anchors: dict[int, list[int]]) -> bool:
    """Whether arrows lead up the page: as the rows say that the parts of it stand nearest to, else as what it consumes.

    A second forward on updated parameters runs as the first did; a penalty goes on where the gradients end.
    """
    inside = set(part)
    near: dict[int, tuple[int, int, int]] = {}  # arrows away, first and last row there
    for box in reversed(part):
        if anchors[box]:
            rows = [ranks.rank[head] for head in anchors[box]]
            near[box] = (0, min(rows), max(rows))
        else:
            found = [near[head] for head in net.succ[box] if head in inside and head in near]
            away = min((far for far, _, _ in found), default=0)
            close = [(first, last) for far, first, last in found if far == away]
            if close:
                near[box] = (away + 1, min(first for first, _ in close), max(last for _, last in close))
    rows = [row for _, *two in near.values() for row in two]
    narrow = max(4, (max(rows, default=0) - min(rows, default=0)) // 4)
    middle = {box: first + last for box, (_, first, last) in near.items() if last - first <= narrow}
    vote = 0
    for box in part:
        for head in net.succ[box]:
            if head in middle and box in middle:
                vote += (middle[head] > middle[box]) - (middle[head] < middle[box])
    if _CLEAR * abs(vote) < len(part):
        consumed = [head for box in part for head in anchors[box]]
        vote = sum(1 if ranks.down[head] else -1 for head in consumed)
    return vote <= 0
