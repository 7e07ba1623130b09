"""Repeated structure: consecutive items of equal structure become one item that stands for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from gradgraph.view.items import Item, group, single
from gradgraph.view.reading import Reading
from gradgraph.view.tandem import Run, runs

__all__ = ["WORTH", "Repeats", "merged"]

WORTH = 4  #: so many boxes a repeat of bare nodes must save


class Repeats:
    """Finds repeats in sequences of items, and numbers their structures."""

    def __init__(self, reading: Reading, families: Mapping[int, str]) -> None:
        """`families` tells which groups, by spot, may be parts of one repetition."""
        self._reading = reading
        self._families = families
        self._symbols: dict[Any, int] = {}
        self._recorded = any(creator >= 0 for creator in reading.creator)

    def symbol(self, structure: Any) -> int:
        """The number of a structure."""
        return self._symbols.setdefault(structure, len(self._symbols))

    def fold(self, items: list[Item]) -> list[Item]:
        """`items`, in the order in which they ran, with every repeat as one item; inner repeats first.

        Costs a few passes over the sequence for every doubling of the longest period.
        """
        while True:
            shorter = self._once(items)
            if shorter is None:
                return items
            items = shorter

    def _once(self, items: list[Item]) -> list[Item] | None:
        """The repeats of the smallest period that has any, merged; None where there are none."""
        names, scale = [self._entry(item) for item in items], 1
        steps: _Steps | None = None
        while scale <= len(names):
            found, names = runs(scale, names)
            if found:
                steps = steps or _Steps(self._reading, items)
                sure = [part for run in found if (part := self._checked(items, run, steps)) is not None]
                if sure:
                    return self._replaced(items, sure)
            scale *= 2
        return None

    def _entry(self, item: Item) -> int:
        if item.members:
            return item.symbol
        return self.symbol((item.symbol, tuple(self._families.get(spot, "") for spot in item.spots[:1])))

    def _checked(self, items: list[Item], run: Run, steps: _Steps) -> Run | None:
        """As much of the run around its middle as is wired alike, and climbs the orders evenly."""
        run = steps.begun_well(run)
        period, times = run.period, run.times
        lanes = [item.lane for item in items[run.start : run.end]]
        base = [min(lanes[t * period : (t + 1) * period]) for t in range(times)]
        middle = times // 2
        climb = base[middle] - base[middle - 1]
        pattern = [lane - base[middle] for lane in lanes[middle * period : (middle + 1) * period]]
        wiring = steps.of(run, middle)

        def alike(t: int) -> bool:
            if [lane - base[t] for lane in lanes[t * period : (t + 1) * period]] != pattern:
                return False
            return steps.alike(wiring, middle, steps.of(run, t), t, times)

        first, last = middle, middle
        while first > 0 and base[first] - base[first - 1] == climb and alike(first - 1):
            first -= 1
        while last + 1 < times and base[last + 1] - base[last] == climb and alike(last + 1):
            last += 1
        part = Run(run.start + first * period, period, last - first + 1)
        return part if self._worthwhile(items, part, climb) else None

    def _worthwhile(self, items: list[Item], run: Run, climb: int) -> bool:
        body = items[run.start : run.start + run.period]
        if run.times < 2 or (climb and len(body) < WORTH and not self._recorded):
            return False
        return any(item.is_group for item in body) or run.period * (run.times - 1) >= WORTH

    def _replaced(self, items: list[Item], found: Sequence[Run]) -> list[Item]:
        result: list[Item] = []
        done = 0
        for run in found:
            result += items[done : run.start]
            result.append(self._template(items, run))
            done = run.end
        return result + items[done:]

    def _template(self, items: list[Item], run: Run) -> Item:
        starts = range(run.start, run.end, run.period)
        columns = [merged([items[start + place] for start in starts]) for place in range(run.period)]
        alone = run.period == 1 and columns[0].is_group and columns[0].times == 1
        if alone:
            item = columns[0]
            item.times = run.times
        else:
            item = group(columns, "repeat", times=run.times)
        structure = tuple([(one.symbol, one.lane - item.lane) for one in columns])
        item.symbol = self.symbol(("repeat", run.times, structure))
        return item


class _Steps:
    """How the bare nodes of a sequence are wired to each other: by how many entries an edge goes back."""

    def __init__(self, reading: Reading, items: list[Item]) -> None:
        self._reading = reading
        self._items = items
        self._places = {item.members[0]: place for place, item in enumerate(items) if len(item.members) == 1}

    def of(self, run: Run, t: int) -> list[tuple[int, int] | None]:
        """For every edge of the `t`-th stretch: how many stretches back, and where there; None if it leaves the run."""
        found: list[tuple[int, int] | None] = []
        begin = run.start + t * run.period
        places, reading = self._places, self._reading
        for item in self._items[begin : begin + run.period]:
            if len(item.members) == 1:
                for target in reading.targets(item.members[0]):
                    place = places.get(target, -1)
                    if run.start <= place < run.end:
                        other, entry = divmod(place - run.start, run.period)
                        found.append((t - other, entry))
                    else:
                        found.append(None)
        return found

    def begun_well(self, run: Run) -> Run:
        """The run from where the fewest edges lead from one stretch to the one before; the last such place."""
        if not run.slack:
            return run
        begin = run.start + (run.times // 2) * run.period  # a boundary in the middle, for no slack
        across = [0] * (run.slack + 2)  # how many edges more lead over each boundary than over the one before
        places, reading = self._places, self._reading
        for place in range(begin, min(begin + run.slack + run.period, run.end)):
            item = self._items[place]
            for target in reading.targets(item.members[0]) if len(item.members) == 1 else ():
                below = places.get(target, place)
                if below < place and below < begin + run.slack:
                    across[max(0, below + 1 - begin)] += 1
                    across[min(place - begin, run.slack) + 1] -= 1
        counts = list(accumulate(across[:-1]))
        shift = max(range(len(counts)), key=lambda shift: (-counts[shift], shift))
        return Run(run.start + shift, run.period, run.times)

    @staticmethod
    def alike(
        these: list[tuple[int, int] | None],
        t: int,
        those: list[tuple[int, int] | None],
        other: int,
        times: int,
    ) -> bool:
        """Whether two stretches are wired alike, apart from edges that reach over the ends of the run."""
        if these == those:
            return True
        if len(these) != len(those):
            return False
        for one, two in zip(these, those, strict=True):
            if one != two:
                over = one is not None and two is None and not 0 <= other - one[0] < times
                back = two is not None and one is None and not 0 <= t - two[0] < times
                if not over and not back:
                    return False
        return True


def merged(parts: Sequence[Item]) -> Item:
    """One item for items of equal structure; what corresponds is merged all the way down."""
    first = min(parts, key=_by_lane)
    if first.members:
        return single([member for part in parts for member in part.members], parts[0].ran, first.lane, first.symbol)
    rows = [sorted(part.children, key=_by_structure) for part in parts]
    children = [merged(column) for column in zip(*rows, strict=True)]
    children.sort(key=_by_time)
    item = group(children, first.fold or "repeat", _names(parts), first.times)
    item.spots = [spot for part in parts for spot in part.spots]
    item.symbol = first.symbol
    return item


def _names(parts: Iterable[Item]) -> list[str]:
    return [name for part in parts for name in part.names]


def _by_lane(item: Item) -> int:
    return item.lane


def _by_time(item: Item) -> int:
    return item.ran


def _by_structure(item: Item) -> tuple[int, int, int]:
    return item.symbol, item.lane, item.ran
