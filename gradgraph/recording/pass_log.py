"""Notes every backward pass of a recording: who ran it, what it made, and from which node."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradgraph.orders import orders_of
from gradgraph.passes import Pass
from gradgraph.recording.creators import CreatorHooks
from gradgraph.recording.log import INSIDE, NUMBER_BITS, Log, PassRecord
from gradgraph.recording.sources import Lines
from gradgraph.walk import Walk

__all__ = ["PassLog"]

_sequence_nr = torch._C._autograd._get_sequence_nr


class PassLog:
    """Observes the engine.

    Args:
        log: where the passes are written.
        enter: makes sure that this thread's lines are noted; gives its mode, where it has one.
        line: gives the line that this thread runs.
    """

    def __init__(self, log: Log, enter: Callable[[], Lines | None], line: Callable[[], str | None]) -> None:
        self._log = log
        self._enter = enter
        self._line = line
        self._running: dict[int, list[_Running]] = {}

    def before(self, pass_: Pass) -> None:
        """Hook the graph, where the pass will record one of its own."""
        mode = self._enter()
        running = _Running(self._log, pass_, mode, self._line())
        stack = self._running.setdefault(pass_.thread, [])
        stack.append(running)
        running.begin(stack[-2] if len(stack) > 1 else None)

    def after(self, pass_: Pass) -> None:
        """Unhook it and note what the pass made."""
        stack = self._running[pass_.thread]
        stack.pop().end()
        if not stack:
            del self._running[pass_.thread]


class _Running:
    """One pass while it runs."""

    def __init__(self, log: Log, pass_: Pass, mode: Lines | None, line: str | None) -> None:
        self._log = log
        self._pass = pass_
        self._mode = mode
        self._line = line
        self._thread = log.here()
        self._order = 0
        self._walk: Walk | None = None
        self._hooks: CreatorHooks | None = None
        self._paused: tuple[CreatorHooks, int] | None = None  # of the pass that this one is in
        self._multithreading = torch._C._is_multithreading_enabled()
        self._was_inside = 0
        self._first = _sequence_nr()
        self._started = time.perf_counter()

    def begin(self, outer: _Running | None) -> None:
        """The engine is about to run, within the pass `outer` if there is one."""
        if outer is not None and outer._hooks is not None:
            self._paused = outer._hooks, outer._hooks.pause()
        if self._pass.create_graph:
            with torch._C.DisableTorchFunction():
                self._hook()
            # So one thread's counter numbers all nodes, a device's too. What the pass computes is the same.
            torch._C._set_multithreading_enabled(False)
        if self._mode is not None:
            # Whoever handles `backward` has taken the mode off the stack, but the user's hooks run in here.
            self._was_inside, self._mode.inside = self._mode.inside, INSIDE
            self._mode.put()
        self._first = _sequence_nr()
        self._started = time.perf_counter()

    def end(self) -> None:
        """The engine has run, or `begin` has raised."""
        seconds = time.perf_counter() - self._started
        if self._mode is not None and self._mode.inside and not self._was_inside:
            self._mode.remove()
            self._mode.inside = 0
        torch._C._set_multithreading_enabled(self._multithreading)
        if self._hooks is not None:
            self._hooks.remove()
        if self._paused is not None:
            hooks, owner = self._paused
            hooks.resume(owner)
        pass_ = self._pass
        last = self._first if pass_.last is None else pass_.last
        made = last - self._first if pass_.create_graph else 0
        if made:
            self._thread.passes.own(self._first, last, self._order << NUMBER_BITS | pass_.number)
            if self._was_inside and self._mode is not None:
                self._mode.note_pass(self._first, last)
            self._tag(last)
        if not pass_.nested:
            self._log.passes.append(
                PassRecord(
                    number=pass_.number,
                    source=self._line,
                    create_graph=pass_.create_graph,
                    accumulates=pass_.accumulates,
                    order=self._order if made else None,
                    nodes=made,
                    seconds=seconds,
                )
            )

    def _hook(self) -> None:
        pass_, log = self._pass, self._log
        edges = [_edge(root) for root in pass_.roots]
        roots = [edge for edge in edges if edge is not None]
        walk = self._walk = Walk()
        walk.follow(roots)
        identities = log.identities(walk.nodes)
        self._order = 1 + max(orders_of(walk, [], log.orders_of(identities)).values(), default=0)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return  # of torch.func's own passes, whose nodes are made on several levels at once, no creator is known
        gradients = [one for one, edge in zip(pass_.grad_outputs, edges, strict=True) if edge is not None]
        self._hooks = CreatorHooks(
            identities,
            self._thread.creators,
            walk,
            roots,
            gradients,
            pass_.inputs,
            accumulates=pass_.accumulates,
            sure=self._mode is None,
        )

    def _tag(self, last: int) -> None:
        """Another thread's nodes are told by tags: those behind what the pass gives, or behind `.grad`."""
        if self._thread.token and self._walk is not None:
            with torch._C.DisableTorchFunction():
                leaves: list[Any] = [getattr(node, "variable", None) for node in self._walk.nodes]
                grads = [] if not self._pass.accumulates else [leaf.grad for leaf in leaves if leaf is not None]
                results = [*(self._pass.results or ()), *grads]
                self._log.tag(results, (self._first, last), self._walk.key_of, self._thread.token)


def _edge(root: Tensor | GradientEdge) -> GradientEdge | None:
    """The edge that a pass starts at; None for a tensor without a graph, which the engine will complain of."""
    if isinstance(root, GradientEdge):
        return root
    # Not get_gradient_edge for all, which makes a node more: the pass holds the tensor meanwhile.
    if root.grad_fn is not None:
        return GradientEdge(root.grad_fn, root.output_nr)
    return get_gradient_edge(root) if root.requires_grad else None
