"""Counts each backward pass of a running program: nodes, orders, bytes, time. Traces nothing, keeps nothing."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradgraph.errors import InputError
from gradgraph.orders import orders_of
from gradgraph.outputs import flatten
from gradgraph.pass_list import PassList, Seen
from gradgraph.passes import Pass
from gradgraph.recording.log import Log
from gradgraph.recording.sources import Sites
from gradgraph.recording.timeline import NOBODY, Timeline
from gradgraph.saved import Charges, saved_values
from gradgraph.teardown import lay_fuses
from gradgraph.walk import Walk

__all__ = ["Counter"]


@dataclass
class _Counted:
    """A pass that is running."""

    source: str | None
    orders: tuple[int, ...]
    nodes: int
    held_bytes: int
    started: float = 0.0


class Counter:
    """Adds each outermost pass of this process to a list. Costs some microseconds for each node of the graph.

    Args:
        passes: the list to add to.
    """

    def __init__(self, passes: PassList) -> None:
        self._passes = passes
        self._process = os.getpid()
        self._log = Log()  # only for its list of lines
        self._sites = Sites(self._log)
        self._made: dict[int, Timeline] = {}  # of each thread: the orders that passes gave to the nodes they made
        self._plain: set[type] = set()  # types of nodes whose names prove no order
        self._running: dict[int, _Counted] = {}

    def before(self, pass_: Pass) -> None:
        """Count the graph, which the pass may free."""
        if pass_.nested or os.getpid() != self._process:
            return
        site = self._sites.here()
        counted = self._running[pass_.number] = self._counted(pass_, None if site is None else self._log.sites[site])
        counted.started = time.perf_counter()

    def after(self, pass_: Pass) -> None:
        """Add the pass to the list."""
        ended = time.perf_counter()
        counted = self._running.pop(pass_.number, None) if not pass_.nested else None
        if counted is None or os.getpid() != self._process:
            return
        if pass_.create_graph and pass_.last is not None and all(map(_is_on_cpu, pass_.roots)):
            # On other devices the engine has threads of its own, and this one's numbers say nothing of what they made.
            made = self._made.setdefault(pass_.thread, Timeline())
            made.own(pass_.first, pass_.last, 1 + max(counted.orders, default=0))
        self._passes.add(
            Seen(
                number=pass_.number,
                source=counted.source,
                accumulates=pass_.accumulates,
                create_graph=pass_.create_graph,
                orders=counted.orders,
                nodes=counted.nodes,
                held_bytes=counted.held_bytes,
                seconds=ended - counted.started,
                raised=None if pass_.error is None else type(pass_.error).__name__,
            )
        )

    def _counted(self, pass_: Pass, source: str | None) -> _Counted:
        try:
            roots, _ = flatten(list(pass_.roots), "roots")
        except InputError:  # none has a graph, of which the pass itself will complain
            return _Counted(source, (), 0, 0)
        walk = Walk()
        walk.follow(roots)
        lay_fuses(walk)
        charges = Charges()
        held = 0
        for node in walk.nodes:
            for value in saved_values(node):
                if value.data is not None:
                    held += charges.charge(value.data)[1]
        return _Counted(source, self._orders(walk, self._made.get(pass_.thread)), len(walk.nodes), held)

    def _orders(self, walk: Walk, made: Timeline | None) -> tuple[int, ...]:
        """The orders of the nodes, as far as the thread's passes and the operations' names prove them."""
        proven = {}
        if made is not None:
            for key, node in enumerate(walk.nodes):
                order = made.owner_of(node._sequence_nr())
                if order != NOBODY:
                    proven[key] = order
        if not proven and self._plain.issuperset(map(type, walk.nodes)):
            return (0,)
        orders = orders_of(walk, [], proven)
        if not orders:
            self._plain.update(map(type, walk.nodes))
            return (0,)
        return tuple(sorted(set(orders.values()) | ({0} if len(orders) < len(walk.nodes) else set())))


def _is_on_cpu(root: Any) -> bool:
    device = root.device if isinstance(root, Tensor) else root.node._input_metadata[root.output_nr].device
    return str(device.type) == "cpu"
