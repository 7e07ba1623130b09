"""Which module made a node: global hooks around every forward, and what each module is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import Any, cast
from weakref import ref

import torch
from torch import nn

from gradgraph.params import parts_of
from gradgraph.recording.log import NUMBER_BITS, Log, ModuleRecord

__all__ = ["ModuleCalls", "module_names"]

_compiling = torch.compiler.is_dynamo_compiling
_module: Any = torch.nn.modules.module
_sequence_nr = torch._C._autograd._get_sequence_nr


@dataclass(eq=False)
class _Known:
    """A module that was seen: an identity may come again, hence the way back to it."""

    module: ref[nn.Module]
    index: int
    calls: int = 0


class _Running(local):
    """The module calls that run on this thread, outermost first: the module, the first number and the call's own."""

    def __init__(self) -> None:
        self.calls: list[tuple[_Known, int, int]] = []


class ModuleCalls:
    """Notes which numbers each module call took, on every thread.

    Args:
        log: where the modules are written.
        enter: called on each thread before its outermost module call.
    """

    def __init__(self, log: Log, enter: Callable[[], object]) -> None:
        self._log = log
        self._enter = enter
        self._running = _Running()
        self._known: dict[int, _Known] = {}
        self._parts: dict[int, dict[int, str]] = {}  # of the modules that called others, by index

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Meanwhile the hooks are there. One at a time may note."""
        global _noting
        _noting = self
        # Not register_module_forward_hook, whose handle has another number each time: compiled modules are guarded by
        # it, and would be compiled anew in every recording.
        _module._global_forward_pre_hooks[_KEY] = _before_forward
        _module._global_forward_hooks[_KEY] = _after_forward
        _module._global_forward_hooks_always_called[_KEY] = True
        warnings.filterwarnings("ignore", _COMPILED, UserWarning)
        quiet = warnings.filters[0]
        try:
            yield
        finally:
            if quiet in warnings.filters:
                cast("list[Any]", warnings.filters).remove(quiet)
            _noting = None
            del _module._global_forward_pre_hooks[_KEY]
            del _module._global_forward_hooks[_KEY]
            del _module._global_forward_hooks_always_called[_KEY]

    def before(self, module: nn.Module) -> None:
        """`module` is called on this thread."""
        running = self._running.calls
        if not running:
            self._enter()
        known = self._known.get(id(module))
        if known is None or known.module() is not module:
            known = self._new(module, running)
        known.calls += 1
        running.append((known, _sequence_nr(), known.calls))

    def after(self, module: nn.Module) -> None:
        """The call has ended, or raised. Not for a KeyboardInterrupt: calls that never ended are dropped here."""
        running = self._running.calls
        while running:
            known, first, call = running.pop()
            if known.module() is module:
                last = _sequence_nr()
                if last != first:
                    self._log.here().modules.own(first, last, known.index << NUMBER_BITS | call)
                return

    def _new(self, module: nn.Module, running: list[tuple[_Known, int, int]]) -> _Known:
        known = self._known[id(module)] = _Known(ref(module), len(self._log.modules))
        root, path = known.index, ""
        for caller, _, _ in reversed(running):
            inner = self._path_in(caller, module)
            if inner:
                record = self._log.modules[caller.index]
                root, path = record.root, f"{record.path}.{inner}" if record.path else inner
                break
        self._log.modules.append(ModuleRecord(known.module, root, path, type(module).__name__))
        return known

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


# A compiled module warns that it calls global hooks twice: ours do nothing the first time, and the user has none.
_COMPILED = "Using `torch.compile.module.` when there are global hooks"
_KEY = -1  # torch's own numbers begin at 0
_noting: ModuleCalls | None = None


def _before_forward(module: nn.Module, args: Any) -> None:  # noqa: ARG001 - torch's signature
    if _compiling():  # torch.compile traces the hooks, of which nothing is to be left
        return
    if _noting is not None:
        _noting.before(module)


def _after_forward(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
    if _compiling():
        return
    if _noting is not None:
        _noting.after(module)


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
