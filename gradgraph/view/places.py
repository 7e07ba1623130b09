"""Where every node belongs: its group in a tree of modules, or of files, functions and lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from gradgraph.view.reading import Reading

__all__ = ["ROOT", "Place", "Places", "places_of"]

ROOT = 0
_SOURCE = re.compile(r"^(.*):(\d+)(?: in (.*))?$", re.DOTALL)


class Place(NamedTuple):
    """One group of the tree. `name` is unique; `family` is equal for those that may be parts of one repetition."""

    parent: int
    fold: str
    name: str
    family: str


class Places:
    """The tree, parents before their children, and `home`: the innermost group of each node, -1 while unknown."""

    def __init__(self, count: int) -> None:
        self.tree = [Place(-1, "", "", "")]
        self.home = [-1] * count
        self._numbers: dict[tuple[int, str, str], int] = {}

    def number(self, parent: int, fold: str, name: str, family: str) -> int:
        """The group of that name in `parent`, made where it is new."""
        known = self._numbers.get((parent, fold, name))
        if known is None:
            known = self._numbers[parent, fold, name] = len(self.tree)
            self.tree.append(Place(parent, fold, name, family))
        return known

    def above(self, number: int) -> Iterator[int]:
        """The group and all around it, innermost first."""
        while number >= 0:
            yield number
            number = self.tree[number].parent

    def common(self, one: int, other: int) -> int:
        """The innermost group that holds both."""
        around = set(self.above(one))
        return next(number for number in self.above(other) if number in around)


def places_of(reading: Reading, by: str) -> Places:
    """The groups by "module" (outside of modules by line) or by "line"; anything else has none.

    A node that a backward made belongs where the node belongs that it differentiates. A leaf belongs to its module; one
    without, where it is used.
    """
    places = Places(len(reading))
    modules = _Modules(reading, places) if by == "module" else None
    files = len({str(data.get("source")).rpartition(":")[0] for data in reading.data if data.get("source")})
    known: dict[str, int] = {}
    for place in sorted(range(len(reading)), key=reading.order.__getitem__):  # creators come before what they made
        data = reading.data[place]
        if reading.creator[place] >= 0:
            places.home[place] = places.home[reading.creator[place]]
        else:
            found = ROOT if modules is None else modules.group_of(place)
            source = data.get("source")
            if found == ROOT and by in ("module", "line") and isinstance(source, str):
                if source not in known:
                    known[source] = _line(places, source, files=modules is None and files > 1)
                found = known[source]
            if not reading.leaf[place] or (modules is not None and found != ROOT):
                places.home[place] = found
    _house_leaves(reading, places)
    return places


class _Modules:
    """Groups of modules, and of their calls where a module is called more than once."""

    def __init__(self, reading: Reading, places: Places) -> None:
        self._data = reading.data
        self._places = places
        self._known: dict[tuple[str, object], int] = {}
        calls: dict[str, set[object]] = {}
        for place, data in enumerate(reading.data):
            if not reading.leaf[place] and data.get("module") and data.get("module_call") is not None:
                calls.setdefault(data["module"], set()).add(data["module_call"])
        self._called_often = {module for module, numbers in calls.items() if len(numbers) > 1}

    def group_of(self, place: int) -> int:
        module, call = self._data[place].get("module"), self._data[place].get("module_call")
        if not isinstance(module, str) or not module:
            return ROOT
        if module not in self._called_often:
            call = None
        if (module, call) not in self._known:
            found = ROOT
            names = module.split(".")
            for depth, name in enumerate(names, start=1):
                found = self._places.number(found, "module", ".".join(names[:depth]), _family(name))
            if call is not None:
                found = self._places.number(found, "module", f"{module} (call {call})", "call")
            self._known[module, call] = found
        return self._known[module, call]


def _family(name: str) -> str:
    """Names that differ in numbers alone may be parts of one repetition: a person gave `query` and `key` two names."""
    return re.sub(r"\d+", "#", name)


def _line(places: Places, source: str, *, files: bool) -> int:
    match = _SOURCE.match(source)
    if match is None:
        return places.number(ROOT, "line", source, source)
    file, line, function = match.groups()
    found = places.number(ROOT, "line", file, file) if files else ROOT
    if function:
        found = places.number(found, "line", f"{file} in {function}", function)
    return places.number(found, "line", source, line)


def _house_leaves(reading: Reading, places: Places) -> None:
    """Leaves without a module live in the innermost group that holds all that use them."""
    home = places.home
    found: dict[int, int] = {}
    for place in range(len(reading)):
        if reading.creator[place] < 0:
            for target in reading.targets(place):
                if home[target] < 0 and home[place] >= 0:
                    at = found.get(target)
                    if at is None or at == home[place]:
                        found[target] = home[place]
                    else:
                        found[target] = places.common(at, home[place])
    for place, number in enumerate(home):
        if number < 0:
            home[place] = found.get(place, ROOT)
