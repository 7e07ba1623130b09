"""The whole tree of a graph: groups as `places` says, repeats merged, then leaves and mirrors where they belong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from gradgraph.view.items import Item, finish, group, single
from gradgraph.view.places import ROOT, Places, places_of
from gradgraph.view.reading import Reading
from gradgraph.view.repeats import WORTH, Repeats, merged

__all__ = ["tree_of"]


def tree_of(reading: Reading, by: str) -> Item:
    """The tree of what `by` asks for: "module" and "line" without repeats, "repeat" with nothing else, "auto"."""
    kind = _chosen(reading) if by == "auto" else by
    return _Tree(reading, places_of(reading, kind), repeats=by in ("auto", "repeat")).build()


def _chosen(reading: Reading) -> str:
    """Modules if they are known, else lines, else structure alone."""
    plain = [data for place, data in enumerate(reading.data) if not reading.leaf[place]]
    modules = sum(bool(data.get("module")) for data in plain)
    lines = any(data.get("source") for data in plain)
    # Without a recording a few operations are known to belong to a module, by their parameters. That parts the others.
    if modules and (lines or 2 * modules >= len(plain)):
        return "module"
    return "line" if lines else "repeat"


class _Tree:
    """Builds the tree.

    Its frame are the nodes that no backward pass made: they are grouped, compared and merged. Every other node mirrors
    its creator and goes where that went, so that one irregular accumulation does not part what is equal otherwise.
    """

    def __init__(self, reading: Reading, places: Places, *, repeats: bool) -> None:
        self._reading = reading
        self._places = places
        self._folding = repeats
        families = {number: place.family for number, place in enumerate(places.tree)}
        self._repeats = Repeats(reading, families)
        self._atom: list[Item | None] = [None] * len(reading)  # of each node
        self._part = [0] * len(reading)  # and its place among the members of that
        self._symbol: list[int] = []

    def build(self) -> Item:
        reading, home = self._reading, self._places.home
        frame = [place for place in range(len(reading)) if self._is_frame(place)]
        self._symbol = self._local_symbols()
        direct: list[list[Item]] = [[] for _ in self._places.tree]
        floating = []  # leaves that belong to no module: they follow what uses them
        for place in sorted(frame, key=reading.ran.__getitem__):
            if reading.leaf[place] and not self._is_owned(place):
                floating.append(place)
            else:
                item = single([place], reading.ran[place], reading.order[place], self._symbol[place])
                direct[home[place]].append(item)
        root = self._grouped(direct)
        self._index(root)
        self._add_leaves(root, floating)
        self._add_mirrors(root)
        finish(root)
        return root

    def _is_owned(self, place: int) -> bool:
        return bool(self._reading.data[place].get("module")) and self._places.home[place] != ROOT

    def _is_frame(self, place: int) -> bool:
        return self._reading.creator[place] < 0

    def _local_symbols(self) -> list[int]:
        """What every node is and what it consumes, as far as that is of its own group and order."""
        reading, home, symbol = self._reading, self._places.home, self._repeats.symbol
        kind, order, leaf, slots = reading.kind, reading.order, reading.leaf, reading.slot
        found = []
        for place in range(len(reading)):
            inputs: list[Any] = []
            begin, end = reading.start[place], reading.start[place + 1]
            for edge in range(begin, end):
                target = reading.target[edge]
                # A leaf is like anything from outside: a loop's first step may take one where others take a result.
                if home[target] == home[place] and order[target] == order[place] and not leaf[target]:
                    inputs += (slots[edge], kind[target], reading.about[edge].get("output_nr"))
                else:
                    inputs += (slots[edge], -1)
            found.append(symbol((kind[place], *inputs)))
        return found

    def _grouped(self, direct: list[list[Item]]) -> Item:
        """Nest the groups, innermost first, and merge the repeats in each."""
        crossing = self._crossing() if self._folding else {}
        tree = self._places.tree
        for number in range(len(tree) - 1, -1, -1):
            items = sorted(direct[number], key=lambda item: item.ran)
            if self._folding:
                items = self._folded(items)
            place = tree[number]
            found = group(items, place.fold, [place.name] if place.name else [])
            found.spots = [number]
            if self._folding and number:
                inside = sorted(Counter((child.symbol, child.lane - found.lane) for child in items).items())
                edges = sorted(crossing.get(number, Counter()).items())
                found.symbol = self._repeats.symbol((place.fold, tuple(inside), tuple(edges)))
            if items and number:
                direct[place.parent].append(found)
        return found

    def _folded(self, items: list[Item]) -> list[Item]:
        """Merge repeats; first those that differ by their order alone, as the steps of an inner loop do."""
        owned = [item for item in items if item.members and self._reading.leaf[item.members[0]]]
        running = [item for item in items if not (item.members and self._reading.leaf[item.members[0]])]
        return sorted(owned + self._repeats.fold(self._by_order(running)), key=lambda item: item.ran)

    def _by_order(self, items: list[Item]) -> list[Item]:
        """In groups of one order each, where these are equal to each other; else as they are."""
        lanes = sorted({item.lane for item in items})
        if len(lanes) < 3 or len(self._places.tree) == 1 or any(one.is_group for one in items):
            return items
        parts = [[item for item in items if item.lane == lane] for lane in lanes]
        inside = [sorted(item.symbol for item in part) for part in parts]
        first = next((place for place in range(len(parts) - 1) if inside[place] == inside[place + 1]), None)
        if first is None:
            return items
        last = first
        while last + 1 < len(parts) and inside[last + 1] == inside[first] and lanes[last + 1] == lanes[last] + 1:
            last += 1
        if last - first < 2:
            return items
        template = merged([group(part, "repeat") for part in parts[first : last + 1]])
        template.times = last - first + 1
        template.symbol = self._repeats.symbol(("orders", template.times, tuple(inside[first])))
        rest = [item for place, part in enumerate(parts) if not first <= place <= last for item in part]
        return sorted([*rest, template], key=lambda item: item.ran)

    def _crossing(self) -> dict[int, Counter[Any]]:
        """The edges between different groups, by the innermost group that holds both ends."""
        reading, home, symbol = self._reading, self._places.home, self._symbol
        found: dict[int, Counter[Any]] = {}
        for place in range(len(reading)):
            if reading.creator[place] >= 0:
                continue
            for edge in range(reading.start[place], reading.start[place + 1]):
                target = reading.target[edge]
                if home[place] != home[target] and reading.creator[target] < 0:
                    number = self._places.common(home[place], home[target])
                    if number != ROOT:
                        about = (symbol[place], reading.slot[edge], symbol[target])
                        found.setdefault(number, Counter())[about] += 1
        return found

    def _index(self, root: Item) -> None:
        """Know the atom of every node, and the parent of every item."""
        stack = [root]
        while stack:
            item = stack.pop()
            for child in item.children:
                child.parent = item
                if child.members:
                    for part, member in enumerate(child.members):
                        self._atom[member] = child
                        self._part[member] = part
                else:
                    stack.append(child)

    def _add_leaves(self, root: Item, leaves: list[int]) -> None:
        """Put leaves beside what uses them. Those that corresponding nodes use alike correspond."""
        uses: dict[int, list[tuple[int, int, Any]]] = {leaf: [] for leaf in leaves}
        reading = self._reading
        numbers: dict[int, int] = {}
        for place in sorted(range(len(reading)), key=reading.ran.__getitem__):
            atom = self._atom[place]
            if atom is not None:
                for edge in range(reading.start[place], reading.start[place + 1]):
                    found = uses.get(reading.target[edge])
                    if found is not None:
                        found.append((place, numbers.setdefault(id(atom), len(numbers)), reading.slot[edge]))
        classes: dict[Any, list[int]] = {}
        for leaf in leaves:
            about = tuple(sorted((number, slot) for _, number, slot in uses[leaf]))
            several = any(len(self._of(place).members) > 1 for place, _, _ in uses[leaf])
            classes.setdefault((about, reading.kind[leaf]) if several and self._folding else leaf, []).append(leaf)
        for members in classes.values():
            users = [place for place, _, _ in uses[members[0]]]
            item = single(members, reading.ran[members[0]], min(reading.order[member] for member in members))
            self._put(item, self._around(users) or root)

    def _of(self, place: int) -> Item:
        atom = self._atom[place]
        assert atom is not None
        return atom

    def _around(self, users: list[int]) -> Item | None:
        """The innermost item that holds all these nodes in one of the parts that it stands for."""
        if not users:
            return None
        atoms = {id(self._of(user)): self._of(user) for user in users}
        paths = [list(_upwards(atom))[::-1] for atom in atoms.values()]
        found = None
        parts = 1  # how many the items so far stand for
        for items in zip(*paths, strict=False):
            parts *= items[0].times
            numbers = {self._part[user] * parts // len(self._of(user).members) for user in users} if parts > 1 else {0}
            if len(numbers) > 1 or items[0].members or any(item is not items[0] for item in items):
                break
            found = items[0]
        return found

    def _put(self, item: Item, parent: Item) -> None:
        item.parent = parent
        parent.children.append(item)
        for member in item.members:
            self._atom[member] = item

    def _add_mirrors(self, root: Item) -> None:
        """Put what backward passes made beside what they differentiate: mirrors of corresponding nodes correspond."""
        reading = self._reading
        # Where hundreds of gradients meet in one shared weight, the additions are one repeat.
        many = Counter((creator, reading.kind[place]) for place, creator in enumerate(reading.creator) if creator >= 0)
        rank: Counter[tuple[int, int, int]] = Counter()
        known: dict[tuple[int, int, int, int], Item] = {}
        mirrors = [place for place in range(len(reading)) if reading.creator[place] >= 0]
        mirrors.sort(key=lambda place: (reading.order[place], self._symbol[place], reading.ran[place]))
        for place in mirrors:
            creator = reading.creator[place]
            source = self._of(creator)
            step = reading.order[place] - reading.order[creator]
            about = (creator, reading.kind[place], step)
            key = (id(source), reading.kind[place], step, rank[about])
            if not self._folding or many[creator, reading.kind[place]] <= WORTH:
                rank[about] += 1
            item = known.get(key)
            if item is None:
                item = known[key] = single([], reading.ran[place], source.lane + step, self._symbol[place])
                item.members.append(place)
                self._put(item, source.parent or root)
            else:
                item.members.append(place)
                self._atom[place] = item


def _upwards(item: Item | None) -> Iterator[Item]:
    while item is not None:
        yield item
        item = item.parent
