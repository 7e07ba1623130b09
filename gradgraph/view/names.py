"""Which group or node a user means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from gradgraph.errors import InputError
from gradgraph.view.items import Item
from gradgraph.view.labels import label_of

__all__ = ["check_known", "groups_called", "near"]


def groups_called(root: Item, wanted: Iterable[str], data: Sequence[Mapping[str, Any]]) -> tuple[list[Item], list[str]]:
    """The groups that `wanted` names, and the names that no group has.

    By name, by label, by what a merged part is called, or by the end of a path.

    Raises:
        InputError: what is not a name.
    """
    known = _known(root, data) if wanted else {}
    found: list[Item] = []
    unknown = []
    for name in wanted:
        if not isinstance(name, str):
            raise InputError(f"expand expected names of groups, got {name!r}; pass for example expand=('encoder.3',).")
        bare = re.sub(r" ×\d+$", "", name)
        ends = (items for full, items in known.items() if full.endswith(f".{bare}") or full.startswith(f"{bare} "))
        called = known.get(bare) or [item for items in ends for item in items]
        found += called
        if not called:
            unknown.append(name)
    return list(dict.fromkeys(found)), unknown


def check_known(root: Item, unknown: Sequence[str], data: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for a name that no group has, with those that are near."""
    for name in unknown:
        raise InputError(f"expand={name!r} names no group of this graph; {near(name, _known(root, data))}")


def _known(root: Item, data: Sequence[Mapping[str, Any]]) -> dict[str, list[Item]]:
    known: dict[str, list[Item]] = {}
    stack = [root]
    while stack:
        item = stack.pop()
        stack += reversed([child for child in item.children if child.is_group])
        if item is not root:
            for name in dict.fromkeys([label_of(item, data), *item.names]):
                known.setdefault(name, []).append(item)
    return known


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
