"""What boxes and clusters are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gradgraph.view.items import Item

__all__ = ["label_of", "pattern"]

_SOURCE = re.compile(r"^.*[/\\](?=[^/\\]+$)", re.DOTALL)  # the folders of a file
_CALL = re.compile(r" \(call (\d+)\)$")


def label_of(item: Item, data: Sequence[Mapping[str, Any]]) -> str:
    """What a person wants to read first about an item: its module, line or operation."""
    if item.members:
        return _atom(item.members, data)
    if item.names:
        return pattern([_SOURCE.sub("", name) for name in item.names] if item.fold == "line" else item.names)
    named = [child for child in item.children if child.names]
    if named and item.fold == "repeat":
        return pattern([*named[0].names, *named[-1].names])
    atoms = sorted(item.atoms(), key=lambda atom: atom.ran)
    ops = [atom for atom in atoms if data[atom.members[0]].get("kind") != "leaf"] or atoms
    count = sum(len(atom.members) for atom in ops) // item.total
    return _ops([str(data[atom.members[0]].get("op")) for atom in ops], count)


def _atom(members: Sequence[int], data: Sequence[Mapping[str, Any]]) -> str:
    names = [data[member].get("name") for member in members]
    if all(isinstance(name, str) for name in names):
        return pattern([str(name) for name in names])
    return str(data[members[0]].get("op"))


def _ops(ops: Sequence[str], count: int) -> str:
    if count <= 1:
        return ops[0]
    ends = ops[0] if ops[0] == ops[-1] else f"{ops[0]} … {ops[-1]}"
    return f"{count} ops: {ends}"


def pattern(names: Sequence[str]) -> str:
    """One name for several: `h.0 … h.11` where only the end differs, `h.*.attn` where something within does."""
    several = list(dict.fromkeys(names))
    if len(several) == 1:
        return several[0]
    calls = [_CALL.search(name) for name in several]
    if all(calls):
        bare = pattern([_CALL.sub("", name) for name in several])
        numbers = [int(call[1]) for call in calls if call]
        return f"{bare} (calls {min(numbers)} to {max(numbers)})" if min(numbers) < max(numbers) else bare
    split = [name.split(".") for name in several]
    first, last = split[0], split[-1]
    if any(len(parts) != len(first) for parts in split):
        return f"{several[0]} … {several[-1]}"
    same = [len(set(column)) == 1 for column in zip(*split, strict=True)]
    if same[-1]:
        return ".".join(part if fixed else "*" for part, fixed in zip(first, same, strict=True))
    if all(same[:-1]):
        # A number alone says little: `h.11`, not `11`.
        short = last[-2:] if last[-1].isdigit() else last[-1:]
        return f"{several[0]} … {'.'.join(short)}"
    return ".".join(part if fixed else "*" for part, fixed in zip(first[:-1], same[:-1], strict=True)) + ".*"
