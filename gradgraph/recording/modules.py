"""Which module made a node: the numbers that each call of a module took, and what each module is called."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, local
from typing import Any
from weakref import ref

import torch
from torch import nn

from gradgraph.params import parts_of
from gradgraph.recording.log import NUMBER_BITS, Log, ModuleRecord

__all__ = ["ModuleCalls", "module_names"]

_compiling = torch.compiler.is_dynamo_compiling
_sequence_nr = torch._C._autograd._get_sequence_nr

_MOST = 10_000  # modules that are remembered, unless more are alive


@dataclass(eq=False)
class _Known:
    """A module that was seen: an identity may come again, hence the way back to it."""

    module: ref[nn.Module]
    index: int
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))  # of its calls; threads share them


class _Running:
    """The modules whose calls run on one thread, outermost first, and the thread's timeline."""

    def __init__(self, own: Callable[[int, int, int], None]) -> None:
        self.own = own
        self.calls: list[_Known] = []
        self.owner = 0  # the call that was begun last


class ModuleCalls:
    """Notes which numbers each module call took, on every thread.

    Args:
        log: where the modules are written.
        enter: called on each thread before its outermost module call.
    """

    def __init__(self, log: Log, enter: Callable[[], object]) -> None:
        self._log = log
        self._enter = enter
        self._local = local()
        self._lock = Lock()
        self._indices = itertools.count(max(log.modules, default=-1) + 1)
        self._most = _MOST
        self._known: dict[int, _Known] = {}
        self._parts: dict[int, dict[int, str]] = {}  # of the modules that called others, by index

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Meanwhile every call of a module is noted. One at a time may note.

        Not by global forward hooks: with any of those, each call of a module takes torch's long way, which costs a
        small model 15 % even where the hooks do nothing.
        """
        global _noting
        original: Any = nn.Module.__call__
        call = _wrapped(original)
        _noting = self
        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            _noting = None
            if nn.Module.__call__ is call:
                nn.Module.__call__ = original  # type: ignore[method-assign]

    def begin(self, module: nn.Module) -> _Running:
        """`module` is called on this thread, of which this gives the calls that run."""
        running: _Running | None = getattr(self._local, "running", None)
        if running is None:
            running = self._local.running = _Running(self._log.here().modules.own)
        if not running.calls:
            self._enter()
        known = self._known.get(id(module))
        if known is None or known.module() is not module:
            with self._lock:
                known = self._known.get(id(module))
                if known is None or known.module() is not module:
                    known = self._new(module, running.calls)
        running.calls.append(known)
        running.owner = known.index << NUMBER_BITS | next(known.numbers)
        return running

    def _new(self, module: nn.Module, running: list[_Known]) -> _Known:
        if len(self._log.modules) >= self._most:
            self._forget()
        known = self._known[id(module)] = _Known(ref(module), next(self._indices))
        root, path = known.index, ""
        for caller in reversed(running):
            inner = self._path_in(caller, module)
            if inner:
                record = self._log.modules[caller.index]
                root, path = record.root, f"{record.path}.{inner}" if record.path else inner
                break
        self._log.modules[known.index] = ModuleRecord(known.module, root, path, type(module).__name__)
        return known

    def _forget(self) -> None:
        """Forget modules that are gone, of a program that makes them as it runs."""
        modules = self._log.modules
        alive = {index for index, one in modules.items() if one.module() is not None}
        alive |= {modules[index].root for index in alive}
        for index in modules.keys() - alive:
            del modules[index]
            self._parts.pop(index, None)
        self._known = {key: known for key, known in self._known.items() if known.index in alive}
        self._most = max(_MOST, 2 * len(alive))

    def _path_in(self, caller: _Known, module: nn.Module) -> str | None:
        """Where `module` stands in the one that called it."""
        outer = caller.module()
        if outer is None:
            return None
        path = self._parts.get(caller.index, {}).get(id(module))
        if path is None or _part(outer, path) is not module:  # modules may be exchanged as the program runs
            self._parts[caller.index] = parts_of(outer)
            path = self._parts[caller.index].get(id(module))
        return path


def _part(module: nn.Module, path: str) -> nn.Module | None:
    part: nn.Module | None = module
    for name in path.split("."):
        part = None if part is None else part._modules.get(name)
    return part


_noting: ModuleCalls | None = None


def _wrapped(original: Any) -> Any:
    """`nn.Module.__call__`, noted."""

    @functools.wraps(original)
    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it stands in for that
        if _compiling() or (noting := _noting) is None:  # torch.compile traces this: nothing of it is to be left
            return original(self, *args, **kwargs)
        running = noting.begin(self)
        own, owner = running.own, running.owner
        first = _sequence_nr()
        try:
            return original(self, *args, **kwargs)
        finally:
            last = _sequence_nr()
            running.calls.pop()
            if last != first:
                own(first, last, owner)

    return __call__


def module_names(log: Log, used: set[int], paths: Mapping[int, str]) -> dict[int, str]:
    """What the modules of the indices `used` are called.

    A module goes by its path in `paths` (by identity) or by its root's there; else by its path from the outermost
    module that called it. Several such roots are told apart by the names of their classes.
    """
    given: dict[int, str] = {}
    for index in used | {log.modules[index].root for index in used}:
        module = log.modules[index].module()
        if module is not None and id(module) in paths:
            given[index] = paths[id(module)]
    unnamed = sorted({log.modules[index].root for index in used if index not in given} - given.keys())
    kinds = [log.modules[root].kind for root in unnamed]
    if len(unnamed) == 1 and not given:
        given[unnamed[0]] = ""
    else:
        for place, (root, kind) in enumerate(zip(unnamed, kinds, strict=True)):
            given[root] = f"{kind}{kinds[:place].count(kind) + 1}" if kinds.count(kind) > 1 else kind
    names: dict[int, str] = {}
    for index in used:
        record = log.modules[index]
        prefix = given[record.root] if index not in given else ""
        names[index] = given[index] if index in given else f"{prefix}.{record.path}".strip(".")
    return names
