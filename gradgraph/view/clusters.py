"""The nested frames around boxes: the opened groups that they lie in, in each lane apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gradgraph.view.items import Item
from gradgraph.view.labels import label_of

__all__ = ["Clusters"]


class Clusters:
    """Names clusters. What would say nothing is left out: a frame around one box, around another frame, or a chain."""

    def __init__(self, data: Sequence[Mapping[str, Any]]) -> None:
        self._data = data
        self._table: dict[str, dict[str, Any]] = {}

    def table(self) -> dict[str, dict[str, Any]]:
        """Label, parent and repetitions of each cluster, by its name."""
        return self._table

    def names(self, boxes: Sequence[tuple[Item | None, int]]) -> list[list[str]]:
        """For each box, given by its item and lane: the clusters that it lies in, outermost first."""
        chains = [_around(item) for item, _ in boxes]
        held = Counter((id(item), lane) for chain, (_, lane) in zip(chains, boxes, strict=True) for item in chain)
        lowest: dict[int, int] = {}
        for chain, (_, lane) in zip(chains, boxes, strict=True):
            for item in chain:
                lowest[id(item)] = min(lane, lowest.get(id(item), lane))
        in_lane = Counter(lane for _, lane in boxes)
        known: dict[tuple[int, int], str] = {}
        found = []
        for chain, (_, lane) in zip(chains, boxes, strict=True):
            names: list[str] = []
            for place, item in enumerate(chain):
                inner = held[id(chain[place + 1]), lane] if place + 1 < len(chain) else 0
                count = held[id(item), lane]
                plain = item.times == 1
                if count == 1 or item.fold == "chain" or (plain and (count in (inner, in_lane[lane]))):
                    continue
                if (id(item), lane) not in known:
                    parent = names[-1] if names else None
                    known[id(item), lane] = self._add(item, lane, lane > lowest[id(item)], parent)
                names.append(known[id(item), lane])
            found.append(names)
        return found

    def _add(self, item: Item, lane: int, higher: bool, parent: str | None) -> str:
        label = label_of(item, self._data)
        name = plain = f"{label} (order {lane})" if higher else label
        count = 1
        while name in self._table:
            count += 1
            name = f"{plain} ({count})"
        shown = f"{label} ×{item.times}" if item.times > 1 else label
        self._table[name] = {"label": shown, "parent": parent, "times": item.times}
        return name


def _around(item: Item | None) -> list[Item]:
    """The groups around an item but the root, outermost first."""
    found: list[Item] = []
    parent = None if item is None else item.parent
    while parent is not None and parent.parent is not None:
        found.append(parent)
        parent = parent.parent
    return found[::-1]
