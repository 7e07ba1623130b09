"""Of all backward passes of a running program, those that were asked for by number."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence

from gradgraph.last_pass import LastPass
from gradgraph.passes import Pass

__all__ = ["Chosen"]


class Chosen:
    """Observes the outermost passes numbered `numbers`: 1 is the first, -1 the last.

    Each chosen pass has a `LastPass` of its own. For the number -K the latest K passes are traced as they come, and
    held until later ones take their place; where no number is negative, all other passes cost nothing.

    Args:
        numbers: which ones; none is 0.
        watch: makes what traces a pass.
        done: called with a positive number as soon as its pass has ended.

    Attributes:
        count: how many passes there were.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        watch: Callable[[], LastPass],
        done: Callable[[int, LastPass], None] | None = None,
    ) -> None:
        self.count = 0
        self._numbers = numbers
        self._watch = watch
        self._done = done
        self._process = os.getpid()
        self._running: dict[int, LastPass] = {}
        self._first: dict[int, LastPass] = {}
        self._latest: deque[tuple[int, LastPass]] = deque(maxlen=max(0, -min(numbers)))

    def before(self, pass_: Pass) -> None:
        """Trace the pass, if it is to be."""
        if pass_.nested or os.getpid() != self._process:
            return
        self.count = max(self.count, pass_.number)
        wanted = pass_.number in self._numbers
        if not wanted and not self._latest.maxlen:
            return
        watcher = self._running[pass_.number] = self._watch()
        if wanted:
            self._first[pass_.number] = watcher
        if self._latest.maxlen:
            self._keep_latest(pass_.number, watcher)
        watcher.before(pass_)

    def after(self, pass_: Pass) -> None:
        """The pass has run."""
        watcher = None if pass_.nested else self._running.pop(pass_.number, None)
        if watcher is None or os.getpid() != self._process:
            return
        watcher.after(pass_)
        if self._done is not None and pass_.number in self._first:
            self._done(pass_.number, watcher)

    def _keep_latest(self, number: int, watcher: LastPass) -> None:
        """Hold `watcher`, in place of the oldest where there are enough."""
        if len(self._latest) == self._latest.maxlen:
            old, oldest = self._latest.popleft()
            if old not in self._first and oldest.graph is not None:
                # Views that networkx caches in a graph refer to it: it would wait for the collector.
                oldest.graph.clear()
        self._latest.append((number, watcher))

    def found(self, number: int) -> LastPass | None:
        """What was seen of the pass `number`; None if there was no such pass."""
        if number > 0:
            return self._first.get(number)
        return dict(self._latest).get(self.count + 1 + number)
