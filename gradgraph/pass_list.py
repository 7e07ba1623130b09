"""The backward passes of a program as a list to read: passes of one line and shape are one row, however many."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PassList", "Row", "Seen", "not_reached"]

_MOST_SHAPES = 8  # rows of one line; where there are more, they become one
_MOST_LINES = 500  # of a program that makes its code as it runs
_HEADER = ("pass", "times", "line", "call", "orders", "nodes", "holds", "time", "each")


@dataclass
class Seen:
    """One backward pass.

    Attributes:
        number: 1 for the program's first.
        source: the line that ran it, `file:line in function`; None where no line of the user's did.
        accumulates: whether it added to `.grad` (`backward`), or returned gradients (`grad`).
        create_graph: whether it recorded a graph of its own.
        orders: the derivative orders in the graph that it went through.
        nodes: how many nodes that graph had.
        held_bytes: what its nodes kept in memory as the pass began, each storage once.
        seconds: how long it ran.
        raised: the name of the exception that it ended with.
    """

    number: int
    source: str | None
    accumulates: bool
    create_graph: bool
    orders: tuple[int, ...]
    nodes: int
    held_bytes: int
    seconds: float
    raised: str | None = None


@dataclass
class Row:
    """Passes of one line and shape. `every` is the distance between their numbers, 0 where it varies.

    What sort of call they are, and how they ended, is that of `one` of them.
    """

    source: str | None
    one: Seen
    orders: tuple[int, ...]
    first: int
    last: int
    nodes: list[int]  # least and most
    held_bytes: list[int]
    seconds: float
    count: int = 1
    every: int = 0

    @classmethod
    def of(cls, seen: Seen, source: str | None) -> Row:
        """The row of one pass."""
        number, nodes, held = seen.number, seen.nodes, seen.held_bytes
        return cls(source, seen, seen.orders, number, number, [nodes, nodes], [held, held], seen.seconds)

    def add(self, seen: Seen) -> None:
        """Count one more pass. Threads may end theirs in another order than they began them."""
        gap = seen.number - self.last
        if self.count == 1:
            self.every = max(0, gap)
        elif gap != self.every:
            self.every = 0
        self.count += 1
        self.first = min(self.first, seen.number)
        self.last = max(self.last, seen.number)
        self.seconds += seen.seconds
        _widen(self.nodes, seen.nodes)
        _widen(self.held_bytes, seen.held_bytes)
        if self.orders != seen.orders:
            self.orders = tuple(sorted({*self.orders, *seen.orders}))

    def absorb(self, other: Row) -> None:
        """Let the passes of `other` be part of this row."""
        self.every = 0
        self.count += other.count
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.seconds += other.seconds
        for mine, theirs in ((self.nodes, other.nodes), (self.held_bytes, other.held_bytes)):
            _widen(mine, theirs[0])
            _widen(mine, theirs[1])
        self.orders = tuple(sorted({*self.orders, *other.orders}))

    def to_dict(self) -> dict[str, Any]:
        """JSON values. `passes` are the first and the last number; `nodes` and `held_bytes` the least and the most."""
        return {
            "passes": [self.first, self.last],
            "count": self.count,
            "every": self.every or None,
            "source": self.source,
            "accumulates": self.one.accumulates,
            "create_graph": self.one.create_graph,
            "orders": list(self.orders),
            "nodes": self.nodes,
            "held_bytes": self.held_bytes,
            "seconds": self.seconds,
            "raised": self.one.raised,
        }


def _widen(span: list[int], value: int) -> None:
    if value < span[0]:
        span[0] = value
    elif value > span[1]:
        span[1] = value


@dataclass
class PassList:
    """All passes of a run, in constant memory. Threads may add at the same time."""

    program: str
    count: int = 0
    seconds: float = 0.0
    _shapes: dict[tuple[Any, ...], dict[Any, Row]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def rows(self) -> list[Row]:
        """The rows, by their first pass."""
        return sorted((row for shapes in self._shapes.values() for row in shapes.values()), key=lambda row: row.first)

    def add(self, seen: Seen) -> None:
        """Count one more pass."""
        with self._lock:
            self.count += 1
            self.seconds += seen.seconds
            kind = (seen.source, seen.accumulates, seen.create_graph, seen.raised)
            if kind not in self._shapes and len(self._shapes) >= _MOST_LINES:
                kind = (None, *kind[1:])  # all further lines are one
            shapes = self._shapes.setdefault(kind, {})
            shape = None if None in shapes else (seen.orders, seen.nodes)
            row = shapes.get(shape)
            if row is not None:
                row.add(seen)
            elif len(shapes) < _MOST_SHAPES:
                shapes[shape] = Row.of(seen, kind[0])
            else:
                row = Row.of(seen, kind[0])
                for one in shapes.values():
                    row.absorb(one)
                shapes.clear()
                shapes[None] = row

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "program": self.program,
            "passes": self.count,
            "seconds": self.seconds,
            "rows": [row.to_dict() for row in self.rows],
        }

    def to_text(self, width: int = 100) -> str:
        """A table of at most `width` characters a line."""
        from gradgraph.render.table import table  # not before the program has run: it brings networkx

        if not self.count:
            return f"{self.program} ran no backward pass (backward() or autograd.grad())."
        passes = "1 backward pass" if self.count == 1 else f"{self.count:,} backward passes"
        rows = [_HEADER, *(_cells(row) for row in self.rows)]
        several = any(row.count > 1 for row in self.rows)
        columns = [column for column in range(len(_HEADER)) if several or _HEADER[column] not in ("times", "each")]
        shown = [[row[column] for column in columns] for row in rows]
        right = [place for place, column in enumerate(columns) if _HEADER[column] not in ("pass", "line", "call")]
        lines = table(shown, right=right, width=width)
        return "\n".join([f"{self.program} ran {passes} in {_duration(self.seconds)}", *lines])


def _cells(row: Row) -> Sequence[str]:
    from gradgraph.render.lines import format_bytes

    call = "backward" if row.one.accumulates else "grad"
    call += " create_graph" if row.one.create_graph else ""
    call += f", raised {row.one.raised}" if row.one.raised else ""
    return (
        _numbers(row),
        f"×{row.count}" if row.count > 1 else "",
        (row.source or "?").removesuffix(" in <module>"),
        call,
        " ".join(map(str, row.orders)),
        _range(f"{row.nodes[0]:,}", f"{row.nodes[1]:,}"),
        _range(*map(format_bytes, row.held_bytes)),
        _duration(row.seconds),
        _duration(row.seconds / row.count) if row.count > 1 else "",
    )


def _numbers(row: Row) -> str:
    if row.count == 1:
        return str(row.first)
    if row.every == 1:
        return f"{row.first}–{row.last}"
    if row.count == 2:
        return f"{row.first}, {row.last}"
    if row.count == 3 and row.every:
        return f"{row.first}, {row.first + row.every}, {row.last}"
    return f"{row.first}, {row.first + row.every} … {row.last}" if row.every else f"{row.first} … {row.last}"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low}–{high}"


def _duration(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 0.9995:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 999.5 else f"{seconds * factor:,.0f} {unit}"
    return f"{seconds * 1e6:.2g} µs"


def not_reached(program: str, number: int, count: int) -> str:
    """Why there is no pass `number` among `count`."""
    if not count:
        return f"{program} ran no backward pass, so there is no pass {number}."
    passes = "1 backward pass" if count == 1 else f"{count} backward passes"
    choice = "1 (or -1)" if count == 1 else f"from 1 to {count}, or from -{count} (the first) to -1 (the last)"
    return f"{program} ran {passes}, so there is no pass {number}; choose {choice}."
