"""The tree that is folded: items, each a group of items or some nodes that correspond to each other."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Item", "finish", "group", "single"]


class Item:
    """A group with `children`, or an atom: the nodes `members`, one from each of `times` equal parts.

    Attributes:
        names: what the group is called, in each of the parts that it stands for; empty for one without a name.
        fold: why it is a group: "module", "line", "repeat" or "chain".
        times: how many consecutive equal parts were merged into this very item.
        total: the same, with those of all items around it.
        symbol: equal for items of equal structure, whatever they are called.
        ran: when its first node ran.
        lane: of an atom, its order, relative to the first of the parts that are merged; of a group, its lowest.
        lanes: the lanes of all atoms in it.
        spots: the places in the tree of groups that it stands for (see `places`).
    """

    __slots__ = (
        "children",
        "fold",
        "lane",
        "lanes",
        "members",
        "names",
        "parent",
        "ran",
        "spots",
        "symbol",
        "times",
        "total",
    )

    def __init__(self) -> None:
        self.children: list[Item] = _NONE
        self.members: list[int] = _NO_MEMBERS
        self.names: list[str] = _NO_NAMES
        self.fold: str | None = None
        self.times = 1
        self.total = 1
        self.symbol = -1
        self.ran = -1
        self.lane = 0
        self.lanes: tuple[int, ...] = ()
        self.parent: Item | None = None
        self.spots: list[int] = _NO_MEMBERS

    @property
    def is_group(self) -> bool:
        """Whether it has children."""
        return not self.members

    def atoms(self) -> Iterator[Item]:
        """All atoms in it, itself included."""
        stack = [self]
        while stack:
            item = stack.pop()
            if item.members:
                yield item
            else:
                stack += reversed(item.children)


def single(members: list[int], ran: int, lane: int, symbol: int = -1) -> Item:
    """An atom."""
    item = Item()
    item.members = members
    item.ran = ran
    item.lane = lane
    item.symbol = symbol
    return item


def group(children: list[Item], fold: str, names: list[str] | None = None, times: int = 1) -> Item:
    """A group of `children`."""
    item = Item()
    item.children = children
    item.fold = fold
    item.names = names or _NO_NAMES
    item.times = times
    if children:
        item.ran = min(child.ran for child in children)
        item.lane = min(child.lane for child in children)
    return item


def finish(root: Item) -> None:
    """Drop empty groups below `root`; set parents, totals and lanes. A group of one atom gives way to it."""
    stack = [root]
    met = []
    while stack:
        item = stack.pop()
        met.append(item)
        stack += item.children
    for item in reversed(met):  # children first
        if item.members:
            item.lanes = (item.lane,)
            continue
        kept = [child for child in item.children if child.members or child.children]
        item.children = [child.children[0] if _is_needless(child) else child for child in kept]
        for child in item.children:
            child.parent = item
        item.lanes = tuple(sorted({lane for child in item.children for lane in child.lanes}))
        if item.children:
            item.ran = min(child.ran for child in item.children)
    root.total = root.times
    for item in met:
        for child in item.children:
            child.total = item.total * child.times


def _is_needless(item: Item) -> bool:
    return len(item.children) == 1 and bool(item.children[0].members)


# What an item lacks is never written into, only replaced: a million atoms share these.
_NONE: list[Item] = []
_NO_MEMBERS: list[int] = []
_NO_NAMES: list[str] = []
