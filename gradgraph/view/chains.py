"""Where nothing else groups: connected single-use chains, and stretches of the order in which the program ran."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gradgraph.view.items import Item, group
from gradgraph.view.reading import Reading

__all__ = ["Links", "chained", "stretched"]

_SEVERAL = -2


class Links:
    """Which node is the only consumer, and the only input, of which. Leaves and curvature edges do not count."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        count = len(reading)
        self.consumer = [-1] * count  # of leaves, too
        self.input = [-1] * count
        leaf = reading.leaf
        for place in range(count):
            for edge in range(reading.start[place], reading.start[place + 1]):
                target = reading.target[edge]
                if not reading.is_curvature(edge):
                    known = self.consumer[target]
                    self.consumer[target] = place if known in (-1, place) else _SEVERAL
                    if not leaf[target]:
                        known = self.input[place]
                        self.input[place] = target if known in (-1, target) else _SEVERAL

    def below(self, place: int) -> int:
        """The only input of a node, where the node is its only consumer; else -1."""
        target = self.input[place]
        return target if target >= 0 and self.consumer[target] == place else -1


def chained(items: Sequence[Item], links: Links, reading: Reading) -> list[Item]:
    """`items` with every chain of atoms as one item: each inner node has one input and one consumer, leaves apart.

    Corresponding nodes are wired alike; a node from their middle speaks for all.
    """
    atom_of = {member: item for item in items for member in item.members}
    below: dict[int, Item] = {}
    continued: set[int] = set()
    atoms = [item for item in items if item.members and not reading.leaf[item.members[0]]]
    for item in atoms:
        target = atom_of.get(links.below(item.members[len(item.members) // 2]))
        if target is not None and target is not item and _are_parallel(item, target) and id(target) not in continued:
            below[id(item)] = target
            continued.add(id(target))
    chains: dict[int, list[Item]] = {}  # by each item in it
    for item in [*(item for item in atoms if id(item) not in continued), *atoms]:
        chain: list[Item] = []
        one: Item | None = item
        while one is not None and id(one) not in chains:
            chains[id(one)] = chain
            chain.append(one)
            one = below.get(id(one))
    for item in items:
        if item.members and reading.leaf[item.members[0]]:
            user = atom_of.get(links.consumer[item.members[0]])
            if user is not None and id(user) in chains and _are_parallel(item, user, lanes=False):
                chains[id(item)] = chains[id(user)]
                chains[id(user)].append(item)
    result: list[Item] = []
    done: set[int] = set()
    for item in items:
        found = chains.get(id(item))
        if found is None or len(found) == 1:
            result.append(item)
        elif id(found) not in done:
            done.add(id(found))
            result.append(_around(sorted(found, key=lambda one: one.ran)))
    return result


def _are_parallel(one: Item, other: Item, *, lanes: bool = True) -> bool:
    return len(one.members) == len(other.members) and (not lanes or one.lane == other.lane)


def stretched(items: Sequence[Item], most: int) -> list[Item]:
    """`items` in at most `most` boxes where that can be: stretches of about as many consecutive items each.

    An interval of the order in which things ran can stand for them without making a circle of the whole.
    """
    ordered = sorted(items, key=lambda item: item.ran)
    low, high = 1, len(ordered)
    while low < high:  # the most stretches that fit
        middle = (low + high + 1) // 2
        if sum(_lanes(part) for part in _parts(ordered, middle)) <= most:
            low = middle
        else:
            high = middle - 1
    return [part[0] if len(part) == 1 else _around(part) for part in _parts(ordered, low)]


def _parts(items: list[Item], count: int) -> list[list[Item]]:
    bounds = [len(items) * number // count for number in range(count + 1)]
    return [items[low:high] for low, high in pairwise(bounds) if low < high]


def _lanes(items: Sequence[Item]) -> int:
    return len({lane for item in items for lane in item.lanes})


def _around(items: list[Item]) -> Item:
    item = group(items, "chain")
    item.lanes = tuple(sorted({lane for one in items for lane in one.lanes}))
    item.total = items[0].total
    item.parent = items[0].parent
    for one in items:
        one.parent = item
    return item
