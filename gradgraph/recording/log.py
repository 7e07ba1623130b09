"""What a recording knows: timelines of every thread, lines, modules and backward passes.

`recorder` and its parts write it, `provenance` reads it into a graph.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.weak import TensorWeakRef

from gradgraph.kinds import name_of
from gradgraph.recording.timeline import NOBODY, Timeline
from gradgraph.walk import made_within

__all__ = [
    "ACCUMULATION",
    "INSIDE",
    "NUMBER_BITS",
    "PYTHON",
    "Log",
    "ModuleRecord",
    "NodeRecord",
    "PassRecord",
    "ThreadLog",
    "keep",
    "latest",
    "made_at",
]

# Owners in timelines are numbers of 63 bits. Those of creators are a thread's token, 20 bits, and a number of its
# counter, 40 bits; those of module calls an index and the number of the call; those of passes an order and a number.
NUMBER_BITS = 40
ACCUMULATION = 1 << 62  # on a creator: the engine added two gradients that arrive at it
PYTHON = 1 << 61  # on a creator: its backward is Python, and all that ran in it was part of it
INSIDE = 1 << 62  # on a line: it ran within a backward pass, in a hook or in a Python backward

_NUMBER = (1 << NUMBER_BITS) - 1
_LEAF = (1 << 20) - 1  # stands for a thread in a creator: the number is an index in `Log.leaves`
_UNNUMBERED = 2**64 - 1  # the sequence number of every AccumulateGrad
_TAG = "gradgraph thread"  # in the metadata of nodes that other threads made than the one that began the recording
_tokens = itertools.count(1)  # of such threads, through all recordings: a tag outlives its own
_tagged = False  # whether there were any: reading tags takes memory
_STILL_ON = 2**64 - 1

_MOST_PASSES = 10_000
_MOST_LEAVES = 1_000_000


@dataclass(frozen=True)
class PassRecord:
    """One run of the engine while recording.

    Attributes:
        number: 1 for the first run of the recording.
        source: the line that ran it, `file:line in function`; None where no line of the user's did.
        create_graph: whether it recorded a graph of its own.
        accumulates: whether it added to `.grad` (`backward`), or returned gradients (`grad`).
        order: derivative order of the nodes that it made; None if it made none.
        nodes: how many nodes it made.
        seconds: how long it ran.
    """

    number: int
    source: str | None
    create_graph: bool
    accumulates: bool
    order: int | None
    nodes: int
    seconds: float


@dataclass(frozen=True)
class ModuleRecord:
    """A module that ran: a way back to it, and its path from the outermost module that called it."""

    module: ref[nn.Module]
    root: int  # index of the outermost module
    path: str
    kind: str


@dataclass
class NodeRecord:
    """What is known of one node."""

    site: int | None = None  # index of the line in `Log.sites`
    module: int | None = None  # index in `Log.modules`
    call: int = 0  # number of its call, over the whole recording
    creator: int | None = None  # identity of the node whose backward made this one
    accumulation: bool = False
    made_by: int | None = None  # number of the pass
    order: int = 0  # what the pass proves; 0 proves nothing


def _nothing() -> None:
    """Nothing waits."""


@dataclass(eq=False)
class ThreadLog:
    """The timelines of one thread. `token` is 0 for the thread that began the recording."""

    token: int
    lines: Timeline = field(default_factory=Timeline)  # index in `Log.sites`, and INSIDE
    modules: Timeline = field(default_factory=Timeline)
    creators: Timeline = field(default_factory=Timeline)  # identity, and ACCUMULATION or PYTHON
    passes: Timeline = field(default_factory=Timeline)
    spans: list[list[int]] = field(default_factory=list)  # first and last number while the recording was on
    look_up: Callable[[], None] = _nothing  # brings `lines` up to date

    def begin(self) -> None:
        """The recording is on in this thread from now."""
        self.spans.append([torch._C._autograd._get_sequence_nr(), _STILL_ON])

    def end(self) -> None:
        """It is off again."""
        self.spans[-1][1] = torch._C._autograd._get_sequence_nr()

    def covers(self, number: int) -> bool:
        """Whether the recording was on when this thread gave `number` away."""
        return any(first <= number < last for first, last in self.spans)


class Log:
    """All that was recorded. Holds no tensor, no module and no node."""

    def __init__(self) -> None:
        self.home = ThreadLog(0)
        self.threads: dict[int, ThreadLog] = {0: self.home}
        self.sites: list[str] = []
        self.stacks: dict[int, list[str]] = {}  # of a site, the lines that called it, where asked for
        self.modules: dict[int, ModuleRecord] = {}
        self.passes: deque[PassRecord] = deque(maxlen=_MOST_PASSES)
        self._leaves: list[TensorWeakRef] = []
        self._leaf_of: dict[int, int] = {}
        self._local = threading.local()
        self._local.log = self.home
        self._lock = threading.Lock()

    def here(self) -> ThreadLog:
        """This thread's log."""
        log: ThreadLog | None = getattr(self._local, "log", None)
        if log is None:
            with self._lock:
                global _tagged
                _tagged = True
                token = next(_tokens) % (_LEAF - 1) + 1
                log = self._local.log = self.threads[token] = ThreadLog(token)
                log.begin()
        return log

    def tag(self, results: Any, span: tuple[int, int], there_before: Container[Any], token: int) -> None:
        """Say that what is new behind `results`, of the numbers of `span`, was made by another thread than the first.

        The search ends at nodes that are tagged, and at those `there_before`: maybe another thread's, whose numbers
        mean something else.
        """
        several = results if isinstance(results, (tuple, list)) else (results,)
        tensors = [one for one in several if isinstance(one, Tensor)]

        def stop(node: Any) -> bool:  # torch declares metadata as a method
            return node in there_before or _TAG in node.metadata

        node: Any
        for node in made_within(tensors, *span, stop):
            node.metadata[_TAG] = token

    def token_of(self, node: Any) -> int:
        """Token of the thread that made `node`."""
        token: int = node.metadata.get(_TAG, 0) if _tagged else 0
        return token

    def identities(self, nodes: Sequence[Node]) -> list[int | None]:
        """`identity` of each of `nodes`."""
        if _tagged:
            return [self.identity(node) for node in nodes]
        numbers = [node._sequence_nr() for node in nodes]
        return [
            number if number != _UNNUMBERED else self.identity(node)
            for number, node in zip(numbers, nodes, strict=True)
        ]

    def identity(self, node: Any, *, new: bool = True) -> int | None:
        """A number for `node` that stays the same while it lives; None for a leaf not seen before, unless `new`."""
        number: int = node._sequence_nr()
        if number != _UNNUMBERED:
            return number | self.token_of(node) << NUMBER_BITS
        variable: Tensor | None = getattr(node, "variable", None)
        index = self._leaf_of.get(id(variable))
        if index is None or self._leaves[index]() is not variable:
            if not new or variable is None:
                return None
            with self._lock:
                if len(self._leaves) >= _MOST_LEAVES:
                    self._leaves.clear()
                    self._leaf_of.clear()
                index = len(self._leaves)
                self._leaves.append(TensorWeakRef(variable))
                self._leaf_of[id(variable)] = index
        return _LEAF << NUMBER_BITS | index

    def look_up(self) -> None:
        """Bring the lines of all threads up to date."""
        for thread in list(self.threads.values()):
            thread.look_up()

    def orders_of(self, identities: Sequence[int | None]) -> dict[int, int]:
        """The orders above 0 that recorded passes prove for nodes of these identities, by position."""
        proven: dict[int, int] = {}
        oldest = min((one for one in identities if one is not None), default=0)
        if len(self.threads) == 1 and (not len(self.home.passes) or oldest >= self.home.passes.starts[-1]):
            return proven  # all of them were made after the last such pass
        for position, identity in enumerate(identities):
            thread = None if identity is None else self.threads.get(identity >> NUMBER_BITS)
            if thread is not None and identity is not None:
                made_by = thread.passes.owner_of(identity & _NUMBER)
                if made_by != NOBODY:
                    proven[position] = made_by >> NUMBER_BITS
        return proven

    def record_of(self, node: Node) -> NodeRecord | None:
        """What is known of `node`; None if it was made while the recording was off, or is a leaf.

        Of what has run since, the lines are not known before `look_up`.
        """
        number = node._sequence_nr()
        token = self.token_of(node)
        thread = self.threads.get(token)
        if number == _UNNUMBERED or thread is None or not thread.covers(number):
            return None
        if token == 0 and getattr(self._local, "log", None) is None:
            return None  # of a thread that nobody recorded, perhaps, and whose numbers mean something else
        found = NodeRecord()
        line = thread.lines.owner_of(number)
        if line != NOBODY:
            found.site = line & ~INSIDE
        made_by = thread.passes.owner_of(number)
        if made_by != NOBODY:
            found.made_by, found.order = made_by & _NUMBER, made_by >> NUMBER_BITS
            found.creator, found.accumulation = self._creator(thread, number)
        call = self._call(thread, number)
        if call != NOBODY and call >> NUMBER_BITS in self.modules:
            found.module, found.call = call >> NUMBER_BITS, call & _NUMBER
        return found

    def _creator(self, thread: ThreadLog, number: int) -> tuple[int | None, bool]:
        creator = thread.creators.owner_of(number)
        if creator == NOBODY:
            return None, False
        line = thread.lines.owner_of(number)
        if line != NOBODY and line & INSIDE and not creator & PYTHON:
            return None, False  # the user's own Python, in a hook: an ordinary operation on gradients
        return creator & ~(ACCUMULATION | PYTHON), bool(creator & ACCUMULATION)

    def _call(self, thread: ThreadLog, number: int) -> int:
        """The module call that made a node, or in which the node was made that its creators descend from."""
        call = NOBODY
        while True:
            own = thread.modules.owner_of(number)
            call = call if own == NOBODY else own
            creator, _ = self._creator(thread, number)
            if creator is None or creator >> NUMBER_BITS == _LEAF:
                return call
            found = self.threads.get(creator >> NUMBER_BITS)
            number = creator & _NUMBER
            if found is None:
                return call
            thread = found


_latest: Log | None = None


def latest() -> Log | None:
    """The log of the recording that began last; None before the first."""
    return _latest


def made_at(node: Any) -> str:
    """The name of `node`, and the line that made it where the latest recording knows: for error texts."""
    name = name_of(node)
    if _latest is None:
        return name
    _latest.look_up()
    record = _latest.record_of(node)
    return name if record is None or record.site is None else f"{name} (made at {_latest.sites[record.site]})"


def keep(log: Log) -> None:
    """Make `log` the latest. The one before is dropped."""
    global _latest
    _latest = log
