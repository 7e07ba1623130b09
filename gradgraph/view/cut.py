"""Which items of the tree are shown: the most detailed cut that keeps to a number of boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradgraph.view.chains import stretched
from gradgraph.view.items import Item

__all__ = ["cost", "cut"]


def cut(
    root: Item,
    *,
    most: int | None,
    depth: int | None,
    forced: Sequence[Item],
    innermost: bool,
    chains: Callable[[Sequence[Item]], list[Item]],
) -> list[Item]:
    """The items to show. Opens `forced` and what is around them first, then level by level the smallest groups.

    Args:
        root: the tree; groups in it are replaced where only chains of their nodes fit.
        most: how many boxes there may be; None for any number.
        depth: how many levels are opened; None for all.
        forced: groups that are opened whatever it takes.
        innermost: whether groups that hold nothing but nodes are opened, too.
        chains: makes chains of the items of a group.
    """
    opened = {id(item) for one in forced for item in _upwards(one)}
    total = len(root.lanes) + sum(cost(item.children, item) for item in _distinct(forced))
    level = [root]
    reached = 0
    shown: list[Item] = []
    while level:
        below: list[Item] = []
        for item in sorted(level, key=lambda item: (cost(item.children, item), item.ran)):
            children: Sequence[Item] | None = item.children
            if id(item) not in opened:
                children = None
                may = depth is None or reached < depth or (item is root and bool(opened))
                if may and (innermost or item is root or any(child.is_group for child in item.children)):
                    room = None if most is None else most - total
                    children = _opening(item, room, root, opened, chains)
                    total += 0 if children is None else cost(children, item)
            if children is None:
                shown.append(item)
                continue
            for child in children:
                (below if child.is_group else shown).append(child)
        level = below
        reached += 1
    return shown


def _opening(
    item: Item,
    room: int | None,
    root: Item,
    opened: set[int],
    chains: Callable[[Sequence[Item]], list[Item]],
) -> Sequence[Item] | None:
    """What an item opens into with `room` for more boxes; None if it must stay closed."""
    if room is None or cost(item.children, item) <= room:
        return item.children
    fewer = chains(item.children)
    if item is not root and len(fewer) == 1:  # it is such a chain itself
        return None
    item.children = fewer
    if cost(item.children, item) <= room:
        return item.children
    if item is not root:
        return None
    kept = [child for child in item.children if id(child) in opened]
    rest = [child for child in item.children if id(child) not in opened]
    item.children = kept + stretched(rest, room + len(item.lanes) - sum(len(child.lanes) for child in kept))
    for child in item.children:
        child.parent = root
    return item.children


def cost(children: Sequence[Item], item: Item) -> int:
    """How many boxes more it takes to open `item` into `children`. A group makes a box in each of its lanes."""
    return sum(len(child.lanes) for child in children) - len(item.lanes)


def _upwards(item: Item) -> list[Item]:
    """The item and all around it but the root, which opens anyway."""
    found = []
    while item.parent is not None:
        found.append(item)
        item = item.parent
    return found


def _distinct(forced: Sequence[Item]) -> list[Item]:
    return list({id(item): item for one in forced for item in _upwards(one)}.values())
