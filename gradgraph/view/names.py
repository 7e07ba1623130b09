"""Which group or node a user means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from gradgraph.errors import InputError
from gradgraph.view.items import Item
from gradgraph.view.labels import label_of

__all__ = ["groups_called", "near"]


def groups_called(root: Item, wanted: Iterable[str], data: Sequence[Mapping[str, Any]]) -> list[Item]:
    """The groups that `wanted` names: by name, by label, by what a merged part is called, or by the end of a path.

    Raises:
        InputError: a name that no group has, with those that are near.
    """
    known: dict[str, list[Item]] = {}
    stack = [root]
    while stack:
        item = stack.pop()
        stack += reversed([child for child in item.children if child.is_group])
        if item is not root:
            for name in dict.fromkeys([label_of(item, data), *item.names]):
                known.setdefault(name, []).append(item)
    return [item for name in wanted for item in _called(known, name)]


def _called(known: Mapping[str, list[Item]], name: str) -> list[Item]:
    if not isinstance(name, str):
        raise InputError(f"expand expected names of groups, got {name!r}; pass for example expand=('encoder.3',).")
    bare = re.sub(r" ×\d+$", "", name)
    if bare in known:
        return known[bare]
    ends = (items for full, items in known.items() if full.endswith(f".{bare}") or full.startswith(f"{bare} "))
    found = [item for items in ends for item in items]
    if not found:
        raise InputError(f"expand={name!r} names no group of this graph; {near(name, known)}")
    return list(dict.fromkeys(found))


def near(name: str, known: Iterable[str], count: int = 5) -> str:
    """What could be meant instead, as the end of a message."""
    names = list(known)
    if not names:
        return "it has none by that rule."
    ends = {full: full.rsplit(".", 1)[-1] for full in names}
    found = get_close_matches(name, names, count, 0.5)
    found += [full for full, end in ends.items() if full not in found and get_close_matches(name, [end], 1, 0.6)]
    if found:
        return f"near it are {', '.join(map(repr, found[:count]))}."
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"there are {', '.join(map(repr, names[:count]))}{more}."
