"""Tandem repeats: where a sequence says the same several times in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Run", "runs"]


class Run(NamedTuple):
    """From `start` on, `times` stretches of `period` entries each are equal.

    So they are if they all begin up to `slack` entries later.
    """

    start: int
    period: int
    times: int
    slack: int = 0

    @property
    def end(self) -> int:
        """The first entry behind it, wherever it begins."""
        return self.start + self.period * self.times + self.slack


def runs(scale: int, names: Sequence[int]) -> tuple[list[Run], list[int]]:
    """Repeats of periods up to `2 * scale` that do not overlap, and the names for the next scale.

    `names[i]` must be equal exactly where the `scale` entries from i on are equal; at scale 1 it is the sequence.
    An entry that recurs first after p <= 2 * scale, and so do those beside it, makes a stretch of period p: every
    repeat of three or more times is found at the smallest scale that holds its period, in time linear in the sequence.
    """
    last: dict[int, int] = {}
    get = last.get
    found: list[Run] = []
    distance = begin = 0
    for place, name in enumerate(names):
        now = place - get(name, place)
        last[name] = place
        if now != distance:
            if distance and distance <= 2 * scale:
                _add(found, begin, place, distance, scale)
            distance, begin = now, place
    if distance and distance <= 2 * scale:
        _add(found, begin, len(names), distance, scale)
    return _apart(found), _doubled(names, scale)


def _add(found: list[Run], begin: int, end: int, period: int, scale: int) -> None:
    # Entries begin - period ... end + scale - 1 have that period.
    length = end + scale - 1 - (begin - period)
    if length >= 2 * period:
        found.append(Run(begin - period, period, *divmod(length, period)))


def _apart(found: list[Run]) -> list[Run]:
    """The smallest periods first, as far as they do not overlap; in the order of the sequence."""
    taken: list[Run] = []
    kept: set[int] = set()
    for run in sorted(found, key=lambda run: (run.period, run.start)):
        covered = range(run.start, run.end)
        if kept.isdisjoint(covered):
            taken.append(run)
            kept.update(covered)
    return sorted(taken)


def _doubled(names: Sequence[int], scale: int) -> list[int]:
    pairs: dict[tuple[int, int], int] = {}
    number = pairs.setdefault
    return [number(pair, len(pairs)) for pair in zip(names, names[scale:])]  # noqa: B905 - the second is shorter
