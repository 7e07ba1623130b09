"""What the ledger holds: passes, and what each did to each leaf."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = ["LedgerEntry", "LedgerPass", "as_text"]

_NONE = -1.0  # no norm is negative


class LedgerEntry(NamedTuple):
    """What one pass did to one leaf. Norms are 2-norms.

    Attributes:
        pass_number: the pass, from 1.
        contribution: what the pass added, detached; None where no gradient reached the leaf (which is not zero), and
            where `keep` has dropped it.
        total: `.grad` after the pass, detached; None where it is None, and where `keep` has dropped it.
        contribution_norm: of the contribution; None where no gradient reached the leaf.
        total_norm: of `.grad` after the pass; None where it is None.
        carried_norm: of what was in `.grad` when the pass began; None where it was None.
        event: what happened to `.grad` since the pass before: "set to None", "zeroed", "replaced", "changed in
            place", or, on the first pass, "held before"; and "emptied in the pass" where something (an optimizer in
            a hook) took the gradient away while it ran. None where nothing did.
    """

    pass_number: int
    contribution: Tensor | None
    total: Tensor | None
    contribution_norm: float | None
    total_norm: float | None
    carried_norm: float | None
    event: str | None

    @property
    def polluted(self) -> bool:
        """Whether `.grad` held something when the pass began, so that it is not this pass's gradient now."""
        return self.carried_norm is not None and self.carried_norm != 0

    def __repr__(self) -> str:
        event = "" if self.event is None else f", {self.event}"
        norms = f"contribution {_figure(self.contribution_norm)}, total {_figure(self.total_norm)}"
        return f"<LedgerEntry: pass {self.pass_number}, norms: {norms}{event}>"


class LedgerPass:
    """One backward pass that accumulated into `.grad`, runs nested in it included.

    Attributes:
        number: from 1; `autograd.grad` accumulates nothing and has no number.
        names: of the leaves.
        create_graph: whether the pass recorded a graph of its own.
        retain_graph: whether the graph that it differentiated survived it.
        error: what the pass raised, as text. What it had contributed by then stands.
    """

    def __init__(self, number: int, names: list[str], *, create_graph: bool, retain_graph: bool) -> None:
        self.number = number
        self.create_graph = create_graph
        self.retain_graph = retain_graph
        self.error: str | None = None
        # Three numbers per leaf, not an object: a long training makes millions of entries.
        self.names = names
        self._norms = array("d", [_NONE] * 3 * len(names))
        self._events: dict[str, str] = {}
        self._tensors: dict[str, tuple[Tensor | None, Tensor | None]] | None = {}

    @property
    def entries(self) -> dict[str, LedgerEntry]:
        """The entry of each leaf, by name."""
        return {name: self.entry(index) for index, name in enumerate(self.names)}

    def entry(self, index: int) -> LedgerEntry:
        """The entry of the `index`-th leaf."""
        name = self.names[index]
        contribution, total = (self._tensors or {}).get(name, (None, None))
        norms = [None if value == _NONE else value for value in self._norms[3 * index : 3 * index + 3]]
        added, after, before = norms
        return LedgerEntry(self.number, contribution, total, added, after, before, self._events.get(name))

    @property
    def kept(self) -> bool:
        """Whether the tensors of this pass are still there."""
        return self._tensors is not None

    def fill(
        self, index: int, contribution: Tensor | None, total: Tensor | None, norms: list[float | None], event: str
    ) -> None:
        """Note what the pass did to the `index`-th leaf; norms of contribution, total and carried."""
        self._norms[3 * index : 3 * index + 3] = array("d", [_NONE if value is None else value for value in norms])
        if event:
            self._events[self.names[index]] = event
        if self._tensors is not None and (contribution is not None or total is not None):
            self._tensors[self.names[index]] = (contribution, total)

    def drop(self) -> None:
        """Let the tensors go; norms and events stay."""
        self._tensors = None

    def __repr__(self) -> str:
        graph = ", create_graph" if self.create_graph else ", retain_graph" if self.retain_graph else ""
        error = "" if self.error is None else f", raised {self.error[:60]}"
        return f"<LedgerPass {self.number}: {len(self.names)} leaves{graph}{error}>"


def as_text(passes: Sequence[LedgerPass], rows: int) -> str:
    """The last `rows` entries of `passes` as a table, one line per pass and leaf."""
    every = [(record, index) for record in passes for index in range(len(record.names))]
    lines = [("pass", "leaf", "contribution", "carried over", "total", "event")]
    for record, index in every[max(0, len(every) - rows) :]:
        entry = record.entry(index)
        norms = [_figure(value) for value in (entry.contribution_norm, entry.carried_norm, entry.total_norm)]
        lines.append((str(record.number), record.names[index], norms[0], norms[1], norms[2], entry.event or ""))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    if len(every) > rows:
        text.insert(1, f"... {len(every) - rows} earlier rows; table(rows=...) shows more")
    return "\n".join(text)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
