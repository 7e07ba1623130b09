"""Sees every run of the autograd engine.

`Tensor.backward`, `torch.autograd.backward` and `torch.autograd.grad` all end in
`torch.autograd.graph._engine_run_backward`, which `torch.autograd` also binds under its own name. Both names are
replaced while anyone observes, and put back when the last observer leaves.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.autograd.graph
from torch import Tensor
from torch.autograd.graph import GradientEdge

__all__ = ["Observation", "Observer", "Pass", "observe", "unobserved"]


@dataclass(eq=False)
class Pass:
    """One run of the engine, as an observer sees it.

    Runs are numbered from 1 over the whole process, each observer counting for itself. A run within another one (a
    reentrant checkpoint, a `backward` inside a custom Function) is `nested` and carries the number of the run that it
    is in. `roots`, `inputs`, `grad_outputs`, `results` and `error` are there until `after` has returned, and dropped
    then: a pass that is kept keeps no tensor.

    Attributes:
        number: 1 for the first run that the observer sees.
        roots: what the run starts from.
        grad_outputs: the gradient of each root, None where it is an implicit one.
        inputs: what gradients are asked for; empty where that is every leaf.
        create_graph: whether the run records a graph of its own.
        retain_graph: whether the graph that it differentiates survives it.
        accumulates: whether gradients are added to `.grad` (`backward`), not returned (`grad`).
        nested: whether it runs within another run.
        thread: identifier of the thread that called it.
        first: sequence number of this thread's next autograd node when the run began.
        last: the same when it ended: on this thread it made the nodes from `first` to `last`, exclusive.
        results: the gradient of each of `inputs`, None where it has none; None before, and of a pass that accumulates.
        error: what the run raised.
    """

    number: int
    roots: tuple[Tensor | GradientEdge, ...]
    grad_outputs: tuple[Tensor | None, ...]
    inputs: tuple[Tensor | GradientEdge, ...]
    create_graph: bool
    retain_graph: bool
    accumulates: bool
    nested: bool
    thread: int
    first: int
    last: int | None = None
    results: tuple[Tensor | None, ...] | None = None
    error: BaseException | None = None


class Observer(Protocol):
    """What `observe` calls, on the thread that runs the pass. Calls of several threads may overlap."""

    def before(self, pass_: Pass) -> None:
        """The engine is about to run."""

    def after(self, pass_: Pass) -> None:
        """The engine has run, or raised `pass_.error`."""


@dataclass(eq=False)
class Observation:
    """One observer, how many passes it has seen, and the outermost ones that have begun and not ended."""

    observer: Observer
    count: int = 0
    running: list[Pass] = field(default_factory=list)

    @property
    def hidden_here(self) -> bool:
        """Whether what this thread runs now is hidden from the observer; see `unobserved`."""
        return self in _hidden_from()

    def begin(self, asked: dict[str, Any], nested: bool, thread: int) -> Pass:
        """The pass that begins, as this observer counts it."""
        with _lock:
            outer = self._outer(thread) if nested else None
            if outer is None:
                self.count += 1
            number = self.count if outer is None else outer.number
            pass_ = Pass(
                number=number, nested=nested, thread=thread, first=torch._C._autograd._get_sequence_nr(), **asked
            )
            if outer is None:
                self.running.append(pass_)
        return pass_

    def _outer(self, thread: int) -> Pass | None:
        """The pass that a nested run is in: this thread's, or (on a device's thread) the one begun last."""
        own = [pass_ for pass_ in self.running if pass_.thread == thread]
        every = own or self.running
        return every[-1] if every else None

    def end(self, pass_: Pass) -> None:
        """`pass_` has ended."""
        with _lock:
            self.running = [other for other in self.running if other is not pass_]


class _Patch:
    """Stands in for one binding of `_engine_run_backward`.

    Once undone it only passes calls on: whoever replaced the binding meanwhile, and kept ours, loses nothing.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.original: Callable[..., Any] = module._engine_run_backward
        self.live = True

        @functools.wraps(self.original)
        def run(t_outputs: Any, *args: Any, **kwargs: Any) -> Any:
            present = _present() if self.live else []
            if not present:
                return self.original(t_outputs, *args, **kwargs)
            return _run(present, self.original, t_outputs, args, kwargs)

        self.run = run
        module._engine_run_backward = run

    def undo(self) -> None:
        self.live = False
        if self.module._engine_run_backward is self.run:
            self.module._engine_run_backward = self.original


_lock = threading.RLock()
_observations: tuple[Observation, ...] = ()
_patches: list[_Patch] = []
_local = threading.local()


@contextmanager
def observe(observer: Observer) -> Iterator[Observation]:
    """Let `observer` see every run of the engine, on any thread, until the block is left.

    Observers may nest and overlap; `before` is called in the order they entered, `after` in reverse. An exception
    in an observer leaves the pass as an exception of the program would. Costs a few microseconds per run.
    """
    global _observations
    observation = Observation(observer)
    with _lock:
        if not _observations:
            _patches[:] = [_Patch(torch.autograd.graph), _Patch(torch.autograd)]
        _observations = (*_observations, observation)
    try:
        yield observation
    finally:
        with _lock:
            _observations = tuple(other for other in _observations if other is not observation)
            if not _observations:
                for patch in _patches:
                    patch.undo()
                _patches.clear()


@contextmanager
def unobserved() -> Iterator[None]:
    """Hide what this thread runs from everyone who observes now: the passes of an analysis are not the program's.

    Who begins to observe inside the block does see them.
    """
    before = _hidden_from()
    _local.hidden_from = before | set(_observations)
    try:
        yield
    finally:
        _local.hidden_from = before


def _hidden_from() -> frozenset[Observation]:
    hidden_from: frozenset[Observation] = getattr(_local, "hidden_from", frozenset())
    return hidden_from


def _present() -> list[Observation]:
    hidden_from = _hidden_from()
    return [observation for observation in _observations if observation not in hidden_from]


def _run(
    present: list[Observation],
    original: Callable[..., Any],
    t_outputs: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    asked = _asked(t_outputs, *args, **kwargs)
    nested = torch._C._current_graph_task_id() != -1
    thread = threading.get_ident()
    begun: list[tuple[Observation, Pass]] = []
    try:
        for observation in present:
            pass_ = observation.begin(asked, nested, thread)
            begun.append((observation, pass_))
            observation.observer.before(pass_)
        results = original(t_outputs, *args, **kwargs)
        for _, pass_ in begun:
            pass_.results = results
        return results
    except BaseException as error:
        for _, pass_ in begun:
            pass_.error = error
        raise
    finally:
        last = torch._C._autograd._get_sequence_nr()
        _end(begun, last)


def _end(begun: list[tuple[Observation, Pass]], last: int) -> None:
    """Tell the observers in reverse; each one is told even where another raises."""
    if not begun:
        return
    observation, pass_ = begun.pop()
    pass_.last = last
    try:
        observation.end(pass_)
        observation.observer.after(pass_)
    finally:
        pass_.roots = pass_.inputs = ()
        pass_.grad_outputs = ()
        pass_.results = pass_.error = None
        _end(begun, last)


def _asked(
    tensors: Sequence[Tensor | GradientEdge],
    grad_tensors: Sequence[Tensor | None] = (),
    keep_graph: bool | None = False,
    create_graph: bool = False,
    inputs: Sequence[Tensor | GradientEdge] | None = None,
    allow_unreachable: bool = False,  # noqa: ARG001 - the engine's own parameters, under its names
    accumulate_grad: bool = False,
) -> dict[str, Any]:
    """The arguments of `run_backward`, which torch passes by position up to `inputs` (2.10 to 2.15)."""
    return {
        "roots": tuple(tensors),
        "grad_outputs": tuple(grad_tensors),
        "inputs": tuple(inputs or ()),
        "create_graph": bool(create_graph),
        "retain_graph": bool(keep_graph),
        "accumulates": bool(accumulate_grad),
    }
