"""What `gradgraph run` does while a program runs: lists its backward passes, and hands over the chosen ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from gradgraph.errors import GradGraphError
from gradgraph.importing import when_imported
from gradgraph.pass_list import PassList, not_reached

if TYPE_CHECKING:
    from gradgraph.chosen import Chosen
    from gradgraph.graph import AutogradGraph
    from gradgraph.last_pass import LastPass
    from gradgraph.passes import Observer, Pass

__all__ = ["Watch"]

Write = Callable[[int, "AutogradGraph"], None]


class Watch:
    """Watches this process from the moment it has imported torch; processes that it forks are not watched.

    Args:
        program: what the list calls the program.
        numbers: the passes to hand over: 1 is the first, -1 the last.
        write: takes a number of `numbers` and the graph of its pass, as it was before the pass: as soon as that pass
            has ended, or by `end` where the number is negative. What it raises is kept in `problems`.
        gradients: annotate those graphs with the gradients of their passes.

    Attributes:
        passes: the list.
        problems: what went wrong that the program does not know of, a sentence each.
    """

    def __init__(self, program: str, numbers: Sequence[int], write: Write, *, gradients: bool = False) -> None:
        self.passes = PassList(program)
        self.problems: list[str] = []
        self._numbers = numbers
        self._write = write
        self._gradients = gradients
        self._process = os.getpid()
        self._undo = ExitStack()
        self._chosen: Chosen | None = None
        when_imported("torch", self._try_to_begin)

    @property
    def in_fork(self) -> bool:
        """Whether this process is one that the watched one forked."""
        return os.getpid() != self._process

    def _try_to_begin(self) -> None:
        if self.in_fork:
            return
        try:
            self._begin()
        except Exception as fault:  # a program that makes errors of warnings, for one
            self._undo.close()
            self._failed(fault)

    def _begin(self) -> None:
        from gradgraph.counting import Counter
        from gradgraph.passes import observe

        if self._numbers:
            from gradgraph.chosen import Chosen
            from gradgraph.last_pass import LastPass
            from gradgraph.recorder import record

            main = sys.modules["__main__"]
            self._undo.enter_context(record())
            self._chosen = Chosen(self._numbers, lambda: LastPass(main, gradients=self._gradients), self._hand_over)
            self._undo.enter_context(observe(_Guarded(self._chosen, self._failed)))
        # The innermost: it measures the program's time, not ours.
        self._undo.enter_context(observe(_Guarded(Counter(self.passes), self._failed)))

    def end(self) -> None:
        """Watch no longer, and hand over what is only known now."""
        self._undo.close()
        for number in self._numbers:
            if number < 0 or self._chosen is None or self._chosen.found(number) is None:
                self._hand_over(number)

    def _hand_over(self, number: int, _: LastPass | None = None) -> None:
        watcher = self._chosen.found(number) if self._chosen is not None else None
        if watcher is None:
            count = self._chosen.count if self._chosen is not None else 0
            self.problems.append(not_reached(self.passes.program, number, count))
        elif watcher.graph is None:
            self.problems.append(f"pass {number} of {self.passes.program} has no graph, so there is none to write.")
        else:
            from gradgraph.graph import annotate

            try:
                if watcher.statistics is not None:
                    annotate(watcher.graph, "gradient", watcher.statistics)
                self._write(number, watcher.graph)
            except (GradGraphError, OSError) as error:
                self.problems.append(str(error))
            except Exception as fault:
                self._failed(fault)

    def _failed(self, fault: Exception) -> None:
        described = " ".join(f"{type(fault).__name__}: {fault}".split())
        self.problems.append(
            f"gradgraph itself failed after {self.passes.count} passes with {described}, and watched no further. This "
            "is a bug: please report it."
        )


class _Guarded:
    """Passes on to another observer until that one fails: our faults are none of the program's."""

    def __init__(self, observer: Observer, failed: Callable[[Exception], None]) -> None:
        self._observer: Observer | None = observer
        self._failed = failed

    def before(self, pass_: Pass) -> None:
        """The engine is about to run."""
        if self._observer is not None:
            self._guard(self._observer.before, pass_)

    def after(self, pass_: Pass) -> None:
        """The engine has run."""
        if self._observer is not None:
            self._guard(self._observer.after, pass_)

    def _guard(self, tell: Callable[[Pass], None], pass_: Pass) -> None:
        try:
            tell(pass_)
        except Exception as fault:
            self._observer = None
            self._failed(fault)
