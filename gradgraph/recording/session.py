"""All that a recording sets up in the process, and its removal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from gradgraph.passes import observe
from gradgraph.recording.log import Log, keep
from gradgraph.recording.modules import ModuleCalls
from gradgraph.recording.optimizers import unwatched_optimizers
from gradgraph.recording.pass_log import PassLog
from gradgraph.recording.sources import Lines, Sites, TaggedLines, custom_functions, new_threads

__all__ = ["recording_into"]


class _Session:
    """One log, its hooks, and a function mode on each thread, for as long as any recording runs."""

    def __init__(self, log: Log, sites: Sites) -> None:
        self.log = log
        self.users = 0
        self._sites = sites
        self._source = False
        self._local = threading.local()
        self._modes: list[Lines] = []
        self._undo = ExitStack()

    def begin(self) -> None:
        """Set up what serves all threads."""
        keep(self.log)
        with ExitStack() as undo:
            undo.callback(self._switch_off)
            undo.enter_context(ModuleCalls(self.log, self.enter_thread).noted())
            undo.enter_context(observe(PassLog(self.log, self.enter_thread, self._line)))
            undo.enter_context(new_threads(self.enter_thread))
            self._undo = undo.pop_all()

    def end(self) -> None:
        """Undo it."""
        self._undo.close()

    def note_lines(self) -> None:
        """Note lines, from now to the end."""
        if not self._source:
            self._source = True
            self._undo.enter_context(custom_functions(lambda: self._mode))
            self._undo.enter_context(unwatched_optimizers(lambda: self._mode))

    def enter_thread(self) -> Lines | None:
        """Note the lines of what this thread runs from now on; its mode, where it has one."""
        mode = self._mode
        if mode is not None:
            mode.put_back()  # where an optimizer's step has raised
            return mode
        thread = self.log.here()
        if thread.token:
            # Its numbers repeat those of the first thread: only their tags tell its nodes, whether lines are asked for
            # or not.
            mode = TaggedLines(thread, self._sites, self.log)
        elif self._source:
            mode = Lines(thread, self._sites)
        else:
            return None
        Lines.remove_old()
        self._local.mode = mode
        self._modes.append(mode)
        mode.put()
        return mode

    @contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """A recording was begun, and will end, on this thread."""
        depth = getattr(self._local, "depth", 0)
        if depth == 0:
            self.log.here().begin()
        self._local.depth = depth + 1
        self.enter_thread()
        try:
            yield
        finally:
            self._local.depth -= 1
            if self._local.depth == 0:
                self.log.here().end()
                mode = self._mode
                if mode is not None:
                    self._local.mode = None
                    self._modes.remove(mode)
                    mode.on = False
                    mode.remove()

    @property
    def _mode(self) -> Lines | None:
        return getattr(self._local, "mode", None)

    def _line(self) -> str | None:
        """The line that this thread runs."""
        site = self._sites.here() if self._source else None
        return None if site is None else self.log.sites[site]

    def _switch_off(self) -> None:
        # Modes can be taken off by their own threads alone.
        for mode in self._modes:
            mode.on = False
        self._modes.clear()


_lock = threading.RLock()
_session: _Session | None = None


@contextmanager
def recording_into(log: Log | None, *, source: bool, stack: bool) -> Iterator[Log]:
    """Record until the block is left. Gives the log: of the recording that runs already, else `log` or a new one."""
    global _session
    with _lock:
        if _session is None:
            log = Log() if log is None else log
            _session = _Session(log, Sites(log, stack=stack))
            _session.begin()
        session = _session
        session.users += 1
    try:
        if source:
            session.note_lines()
        with session.on_this_thread():
            yield session.log
    finally:
        with _lock:
            session.users -= 1
            if session.users == 0:
                _session = None
                session.end()
