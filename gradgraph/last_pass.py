"""The last backward pass of a running program: its graph, taken just before each pass runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, ModuleType
from typing import Any

import torch
from torch import Tensor

from gradgraph.errors import InputError
from gradgraph.gradients import Gradients, capture
from gradgraph.graph import AutogradGraph
from gradgraph.params import locals_of
from gradgraph.passes import Pass
from gradgraph.tracer import trace_in

__all__ = ["LastPass", "variables"]

_READ_LOCALS = {"locals", "vars", "dir", "eval", "exec"}
_NOT_THE_USERS = tuple(os.path.join(os.path.dirname(str(file)), "") for file in (torch.__file__, __file__))


class LastPass:
    """Observes a program's outermost passes and holds the newest one's graph.

    Args:
        main: the program's `__main__`, whose globals name the leaves.
        gradients: take statistics of the gradients from each pass as it runs.
        keep: hold what the newest pass needs to be differentiated once more; use with `retaining`.

    Attributes:
        graph: the graph of the newest pass, released once the pass has ended; None before the first.
        statistics: what `annotate(graph, "gradient", ...)` takes, where `gradients` was asked for.
        kept: the newest pass's roots and leaves, where `keep` was asked for.
        count: how many outermost passes there were.
    """

    def __init__(self, main: ModuleType, *, gradients: bool = False, keep: bool = False) -> None:
        self.graph: AutogradGraph | None = None
        self.statistics: Gradients | None = None
        self.kept: KeptPass | None = None
        self.count = 0
        self._main = main
        self._gradients = gradients
        self._keep = keep
        self._running: dict[int, tuple[AutogradGraph, ExitStack]] = {}

    def before(self, pass_: Pass) -> None:
        """Trace the pass, in place of the one before."""
        if pass_.nested:
            return
        if self.graph is not None:
            self.graph.clear()  # views that networkx caches in a graph refer to it: it would wait for the collector
        self.graph = self.kept = self.statistics = None
        try:
            graph = trace_in(variables(self._main), list(pass_.roots))
        except InputError:
            return  # it has no graph, which the pass itself will complain of
        self.count += 1
        self.graph = graph
        meanwhile = ExitStack()
        self._running[pass_.number] = graph, meanwhile
        if self._gradients:
            self.statistics = meanwhile.enter_context(capture(graph))
        if self._keep:
            self.kept = KeptPass(pass_.roots, graph)

    def after(self, pass_: Pass) -> None:
        """Let go of the pass's nodes."""
        if pass_.nested or pass_.number not in self._running:
            return
        graph, meanwhile = self._running.pop(pass_.number)
        meanwhile.close()
        graph.release()


class KeptPass:
    """What it takes to differentiate a pass once more after the program has ended and stepped its parameters.

    The leaves' values are copied at the pass and put back by `restore`, with their version counters: then what the
    graph saved is again what it was, unless the program changed other saved tensors in place, which autograd notices.
    """

    def __init__(self, roots: tuple[Any, ...], graph: AutogradGraph) -> None:
        self.roots = roots
        self.leaves: dict[str, Tensor] = {
            graph.nodes[key]["name"]: variable for key, variable in graph.live.leaves.items()
        }
        self._values = {name: variable.detach().clone() for name, variable in self.leaves.items()}
        self._versions = {name: variable._version for name, variable in self.leaves.items()}

    def restore(self) -> None:
        """Give the leaves the values and versions that they had at the pass."""
        with torch.no_grad():
            for name, variable in self.leaves.items():
                variable.copy_(self._values[name])
        torch._C._autograd._unsafe_set_version_counter(tuple(self.leaves.values()), tuple(self._versions.values()))


@contextmanager
def retaining() -> Iterator[None]:
    """Meanwhile every backward pass retains its graph, as if the program had said `retain_graph=True`."""
    places = (torch.autograd.graph, torch.autograd)
    originals = [place._engine_run_backward for place in places]

    def retained(original: Any) -> Any:
        def run(tensors: Any, grad_tensors: Any, keep_graph: Any, *rest: Any, **named: Any) -> Any:  # noqa: ARG001
            return original(tensors, grad_tensors, True, *rest, **named)

        return run

    for place, original in zip(places, originals, strict=True):
        place._engine_run_backward = retained(original)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for place, original in zip(places, originals, strict=True):
            place._engine_run_backward = original  # type: ignore[attr-defined]


def variables(main: ModuleType) -> dict[str, Any]:
    """What the program's running functions call their objects: each object once, under its outermost name.

    Globals of `__main__` win, then come locals, from the function that called the pass outwards; attributes of a
    `self` are called `self.model`. An object that several functions know under names of their own gets one of them,
    since two names for one tensor would make both unsure.
    """
    found = {name: value for name, value in vars(main).items() if not name.startswith("_")}
    known = {id(value) for value in found.values()}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_NOT_THE_USERS):
            for name, value in _reached_from(frame).items():
                if name not in found and id(value) not in known:
                    found[name] = value
                    known.add(id(value))
        frame = frame.f_back
    return found


def _reached_from(frame: FrameType) -> dict[str, Any]:
    """The local variables of `frame`, and the attributes of its `self`."""
    if sys.version_info < (3, 13) and not _READ_LOCALS.isdisjoint(frame.f_code.co_names):
        return {}  # asking would refresh the dict that the function got from locals()
    found = locals_of(frame)
    own = getattr(found.get("self"), "__dict__", {})
    found.update({f"self.{name}": value for name, value in own.items() if not name.startswith("_")})
    return found
