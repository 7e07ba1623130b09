"""Which node's backward made a node: hooks on the graph that a pass with `create_graph=True` differentiates.

A node's own backward makes the nodes numbered from its pre-hook to its post-hook. Behind that, where gradients from
several consumers arrive at one input of a node, the engine adds them: each addition of gradients that require a
gradient makes one node, which serves the node that it accumulates for. How many there are follows from the edges.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradgraph.recording.log import ACCUMULATION, PYTHON
from gradgraph.recording.timeline import NOBODY, Timeline
from gradgraph.walk import Walk

__all__ = ["CreatorHooks"]

_sequence_nr = torch._C._autograd._get_sequence_nr


class CreatorHooks:
    """Hooks on every node of `walk`, until `remove`.

    Args:
        identities: a number for each node, by key; None where there is none.
        creators: where their owners are written.
        walk: the graph to be differentiated.
        roots: where the pass starts.
        grad_outputs: the gradient of each root, None where it is implicit.
        inputs: what gradients are asked for; empty for every leaf.
        accumulates: whether gradients are added to `.grad`; else no leaf's node runs.
        sure: a post-hook on every node. Without, those have none whose numbers the next pre-hook bounds as well; what
            a hook of the user's makes in between must then be told by its line.
    """

    def __init__(
        self,
        identities: Sequence[int | None],
        creators: Timeline,
        walk: Walk,
        roots: Sequence[GradientEdge],
        grad_outputs: Sequence[Tensor | None],
        inputs: Sequence[Tensor | GradientEdge],
        *,
        accumulates: bool,
        sure: bool,
    ) -> None:
        self._creators = creators
        self._thread = threading.get_ident()
        self._key = next(_keys)
        # Of a pass within another one: the node whose backward runs it.
        self._outer = creators.owners[-1] if len(creators) else NOBODY
        self._inner = 0  # passes that run within this one
        self._walk = walk
        self._identities = identities
        self._executed = _executed(walk, inputs)
        # Outputs of nodes at which several gradients arrive, which are added.
        self._shared = _shared(walk, roots)
        # Whether what has arrived so far requires a gradient, of the places where something has.
        self._arrived: dict[tuple[int, int], bool] = {}
        self._begin(roots, grad_outputs)
        self._hooked: list[dict[int, Any]] = []
        self._hook(accumulates=accumulates, sure=sure)

    def remove(self) -> None:
        """Take the hooks off; what runs from now on belongs to whoever ran the pass."""
        for hooks in self._hooked:
            hooks.pop(self._key, None)
        self._hooked.clear()
        self._settle_roots()
        self._mark(_sequence_nr(), self._outer)
        self._creators.trim()

    def pause(self) -> int:
        """Another pass is about to run within this one, maybe over nodes of its. Gives what `resume` is to be told."""
        self._inner += 1
        return self._creators.owners[-1]

    def resume(self, owner: int) -> None:
        """It has ended, within the backward of `owner`."""
        self._inner -= 1
        self._mark(_sequence_nr(), owner)

    def _hook(self, *, accumulates: bool, sure: bool) -> None:
        executed, identities, hooked = self._executed, self._identities, self._hooked
        start, shared = self._walk.start, self._shared
        pairs = zip(self._walk.source, self._walk.target, self._walk.output_nr, strict=True)
        adding = {u for u, v, nr in pairs if (v, nr) in shared} if shared else set()
        mark, own, of_python = self._creators.starts.append, self._creators.owners.append, torch._C._FunctionBase
        begins = _begins if threading.active_count() == 1 else self._begins_here
        with _fast_registration(hooked, self._key):
            for key, node in enumerate(self._walk.nodes):
                owner = identities[key]
                if owner is None or (executed is not None and key not in executed):
                    continue
                if start[key] == start[key + 1] and not accumulates:
                    continue
                python = isinstance(node, of_python)
                node.register_prehook(begins(mark, own, owner | PYTHON if python else owner))
                if sure or python or key in adding:
                    node.register_hook(self._ends(key))

    def _mark(self, number: int, owner: int) -> None:
        self._creators.owners.append(owner)  # first: a thread that reads meanwhile finds an owner for every start
        self._creators.starts.append(number)

    def _begin(self, roots: Sequence[GradientEdge], grad_outputs: Sequence[Tensor | None]) -> None:
        """Before the first node runs the engine adds the gradients of roots that meet."""
        self._mark(_sequence_nr(), NOBODY)
        self._first = len(self._creators)
        self._met: list[int] = []
        for root, gradient in zip(roots, grad_outputs, strict=True):
            place = self._walk.key_of[root.node], root.output_nr
            if place in self._shared and self._arrives(place, gradient is not None and gradient.requires_grad):
                owner = self._identities[place[0]]
                self._met.append(NOBODY if owner is None else owner | ACCUMULATION)

    def _settle_roots(self) -> None:
        """Which numbers those additions took shows when a node has run: they are the last before it."""
        starts, owners = self._creators.starts, self._creators.owners
        number = starts[self._first] if self._first < len(starts) else _sequence_nr()
        for place, owner in enumerate([*self._met, NOBODY] if self._met else []):
            starts.insert(self._first + place, number - len(self._met) + place)
            owners.insert(self._first + place, owner)

    def _begins_here(
        self, mark: Callable[[int], None], own: Callable[[int], None], owner: int
    ) -> Callable[[Any], None]:
        """`_begins`, where another thread may differentiate the same nodes at the same time."""
        begins, thread = _begins(mark, own, owner), self._thread

        def begins_here(grad_outputs: Any) -> None:
            if threading.get_ident() == thread:
                begins(grad_outputs)

        return begins_here

    def _ends(self, key: int) -> Callable[[Any, Any], None]:
        def ends(grad_inputs: Sequence[Tensor | None], grad_outputs: Any) -> None:  # noqa: ARG001
            if self._inner or threading.get_ident() != self._thread:
                return
            number = _sequence_nr()
            self._mark(number, NOBODY)
            walk = self._walk
            for edge in range(walk.start[key], walk.start[key + 1]):
                place = walk.target[edge], walk.output_nr[edge]
                gradient = grad_inputs[walk.slot[edge]]
                if gradient is None or place not in self._shared:
                    continue
                if self._executed is not None and place[0] not in self._executed:
                    continue
                if self._arrives(place, gradient.requires_grad):
                    number = self._added(number, place)

        return ends

    def _arrives(self, place: tuple[int, int], requires_grad: bool) -> bool:
        """Whether the gradient that arrives is added to an earlier one, by a node."""
        before = self._arrived.get(place)
        self._arrived[place] = bool(before) or requires_grad
        return before is not None and self._arrived[place]

    def _added(self, number: int, place: tuple[int, int]) -> int:
        """The node of that number accumulates for `place`; the number after it."""
        owner = self._identities[place[0]]
        if owner is not None:
            self._mark(number, owner | ACCUMULATION)
        self._mark(number + 1, NOBODY)
        return number + 1


def _begins(mark: Callable[[int], None], own: Callable[[int], None], owner: int) -> Callable[[Any], None]:
    # Called for each node of each pass: no more than two appends.
    def begins(grad_outputs: Any) -> None:  # noqa: ARG001 - torch's signature
        own(owner)
        mark(_sequence_nr())

    return begins


_keys = itertools.count(-1, -1)  # torch's own numbers of hooks begin at 0
_registering = threading.RLock()


class _Hooks(dict[int, Any]):
    """What torch takes an OrderedDict for, at half the cost: a later handle refers to it weakly."""

    __slots__ = ("__weakref__",)


@contextmanager
def _fast_registration(hooked: list[dict[int, Any]], key: int) -> Iterator[None]:
    """Meanwhile nodes take hooks of this thread without the handle that torch makes for each, at a third of its cost.

    The dicts that the hooks are in, under `key`, are added to `hooked`. One thread at a time.
    """
    function: Any = torch.autograd.Function
    thread = threading.get_ident()

    def register(hooks: dict[int, Any] | None, hook: Any) -> tuple[Any, Any]:
        if threading.get_ident() != thread:
            return slow(hooks, hook)  # type: ignore[no-any-return]
        if hooks is None:
            hooks = _Hooks()
        hooks[key] = hook
        hooked.append(hooks)
        return hooks, None

    with _registering:
        slow = function._register_hook
        function._register_hook = staticmethod(register)
        try:
            yield
        finally:
            del function._register_hook  # torch's is inherited


def _shared(walk: Walk, roots: Sequence[GradientEdge]) -> set[tuple[int, int]]:
    """Key and number of the outputs that several edges, or roots, lead to."""
    arrivals = Counter(zip(walk.target, walk.output_nr, strict=True))
    arrivals.update((walk.key_of[root.node], root.output_nr) for root in roots)
    return {place for place, count in arrivals.items() if count > 1}


def _executed(walk: Walk, inputs: Sequence[Tensor | GradientEdge]) -> set[int] | None:
    """Keys of the nodes that a pass for `inputs` runs or captures gradients at; None for all of them."""
    if not inputs:
        return None
    ends = [key for key in range(len(walk.nodes)) if walk.start[key] == walk.start[key + 1]]
    wanted = set(map(id, inputs))
    executed = {key for key in ends if id(getattr(walk.nodes[key], "variable", None)) in wanted}
    if len(executed) == len(ends):
        return None  # every path ends in one of them
    nodes = (one.node if isinstance(one, GradientEdge) else one.grad_fn for one in inputs)
    executed |= {walk.key_of[node] for node in nodes if node in walk.key_of}
    consumers: list[list[int]] = [[] for _ in walk.nodes]
    for u, v in zip(walk.source, walk.target, strict=True):
        consumers[v].append(u)
    stack = list(executed)
    while stack:
        for u in consumers[stack.pop()]:
            if u not in executed:
                executed.add(u)
                stack.append(u)
    return executed
