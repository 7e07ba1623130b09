"""The ledger of `.grad`: what each backward pass added to each leaf, and what else happened to it.

A pass's contribution is what reaches the leaf's AccumulateGrad node, after tensor hooks; never a difference of
`.grad` before and after, which rounds, and misses what the program did in between.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradgraph.entries import LedgerEntry, LedgerPass, as_text
from gradgraph.errors import InputError
from gradgraph.graph import AutogradGraph
from gradgraph.labels import keys_of, labelled, recall
from gradgraph.measure import norm
from gradgraph.params import ParamsLike, caller_namespace
from gradgraph.passes import Observation, Pass, observe
from gradgraph.watching import Carried, Watched

__all__ = ["Ledger", "LedgerEntry", "LedgerPass", "watch"]


class _Running:
    """A pass that has begun and not ended. It has a record from its first contribution on, or from its beginning."""

    def __init__(self) -> None:
        self.record: LedgerPass | None = None
        self.carried: list[Carried] = []
        self.contributions: dict[int, Tensor] = {}


class _Recorder:
    """The ledger's ear at the engine: it keeps `before` and `after` out of the ledger's own interface."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def before(self, pass_: Pass) -> None:
        """The engine is about to run."""
        self._ledger._begin(pass_)

    def after(self, pass_: Pass) -> None:
        """The engine has run."""
        self._ledger._end(pass_)


class Ledger:
    """Records what every backward pass adds to the `.grad` of the watched leaves, between enter and exit.

    Made by `watch`. `ledger.passes` are the passes that accumulated, `ledger[name]` the entries of one leaf. Once
    left it holds none of the leaves; entered again it goes on recording.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, keep: int | None = None) -> None:
        if keep is not None and keep < 0:
            raise InputError(f"keep expected the number of passes to keep the tensors of, or None for all; got {keep}.")
        for name, tensor in tensors.items():
            if not tensor.is_leaf:
                raise InputError(
                    f"watch expected leaves, but {name!r} is the result of a {type(tensor.grad_fn).__name__}: autograd "
                    "accumulates .grad in leaves. Watch the leaves that it is computed from."
                )
        if not any(tensor.requires_grad for tensor in tensors.values()):
            raise InputError(
                f"none of the {len(tensors)} tensors to watch requires grad, so no pass can reach their .grad; call "
                "requires_grad_() on those that should."
            )
        self.passes: list[LedgerPass] = []
        self._keep = keep
        self._dropped = 0
        self._names = list(tensors)
        self._tensors = {name: recall(tensor) for name, tensor in tensors.items()}
        self._leaves = [Watched(tensor) for tensor in tensors.values()]
        self._running: dict[Pass, _Running] = {}
        self._lock = threading.RLock()
        self._stack: ExitStack | None = None
        self._observation: Observation | None = None
        # Until it is entered the leaves must live: `with watch([torch.ones(3, requires_grad=True)])`.
        self._held: list[Tensor] = list(tensors.values())

    def __enter__(self) -> Ledger:
        if self._stack is not None:
            raise InputError("this ledger is recording already; call watch(params) for a second one.")
        self._stack = ExitStack()
        self._attach()
        self._observation = self._stack.enter_context(observe(_Recorder(self)))
        return self

    def __exit__(self, *exception: object) -> None:
        stack, self._stack, self._observation = self._stack, None, None
        if stack is not None:
            stack.close()
        for leaf in self._leaves:
            leaf.detach()
        self._held = []

    @property
    def names(self) -> list[str]:
        """Names of the watched leaves, in the order of `params`."""
        return list(self._names)

    def __getitem__(self, name: str) -> list[LedgerEntry]:
        index = self._index(name)
        return [record.entry(index) for record in self.passes]

    def contribution(self, name: str, pass_number: int) -> Tensor | None:
        """What pass `pass_number` added to the `.grad` of leaf `name`; None where no gradient reached it.

        Raises:
            InputError: there is no such leaf or pass, or `keep` has dropped its tensors.
        """
        return self._kept(pass_number).entry(self._index(name)).contribution

    def total(self, name: str, pass_number: int) -> Tensor | None:
        """`.grad` of leaf `name` after pass `pass_number`; None where it was None.

        Raises:
            InputError: there is no such leaf or pass, or `keep` has dropped its tensors.
        """
        return self._kept(pass_number).entry(self._index(name)).total

    def annotations(self, graph: AutogradGraph) -> dict[int, list[dict[str, Any]]]:
        """For `annotate(graph, "accumulated", ledger)`: norms of each pass's contribution and total, per leaf."""
        keys = keys_of(graph, self._tensors, "ledger")
        return {
            key: [
                {"pass": entry.pass_number, "contribution": entry.contribution_norm, "total": entry.total_norm}
                for entry in self[name]
            ]
            for name, key in keys.items()
        }

    def table(self, *, rows: int = 200) -> str:
        """The ledger as text, one line per pass and leaf: norms, and what happened to `.grad` before the pass.

        Args:
            rows: how many lines at most; the last ones are shown, with a count of the others.
        """
        return as_text(self.passes, rows)

    def __repr__(self) -> str:
        state = "recording" if self._stack is not None else "not recording"
        head = f"<Ledger: {len(self.passes)} passes, {len(self._names)} leaves, {state}>"
        return head if not self.passes else f"{head}\n{self.table(rows=20)}"

    def _index(self, name: str) -> int:
        if name not in self._tensors:
            known = ", ".join(repr(known) for known in self._names[:8])
            raise InputError(f"the ledger watches no leaf called {name!r}; its names begin with {known}.")
        return self._names.index(name)

    def _kept(self, pass_number: int) -> LedgerPass:
        if not 1 <= pass_number <= len(self.passes):
            count = len(self.passes)
            raise InputError(f"the ledger has no pass {pass_number}: it saw {count}, numbered from 1.")
        record = self.passes[pass_number - 1]
        if not record.kept:
            raise InputError(
                f"the tensors of pass {pass_number} were dropped, since keep={self._keep}; the norms of "
                f"ledger[name][{pass_number - 1}] are still there. Raise keep to keep more."
            )
        return record

    def _attach(self) -> None:
        for index, leaf in enumerate(self._leaves):
            leaf.attach(partial(self._collect, index))

    @torch.no_grad()
    def _collect(self, index: int, gradient: Tensor) -> None:
        """A gradient is about to be accumulated. On a GPU this runs on a thread of the device."""
        with self._lock:
            pass_ = self._current()
            if pass_ is None:  # a run that began before the watch, or one of our own analyses
                return
            running = self._running[pass_]
            if running.record is None:
                self._open(pass_, running)
            earlier = running.contributions.get(index)
            # A copy, not a reference: the engine then steals the gradient for `.grad` as it does without us.
            copy = gradient.detach().clone()
            running.contributions[index] = copy if earlier is None else earlier + copy

    def _current(self) -> Pass | None:
        """The pass that accumulates now: this thread's, or (on a thread of a device) the one begun last."""
        if self._observation is None or self._observation.hidden_here:
            return None
        thread = threading.get_ident()
        own = [pass_ for pass_ in self._running if pass_.thread == thread]
        every = own or list(self._running)
        return every[-1] if every else None

    @torch.no_grad()
    def _begin(self, pass_: Pass) -> None:
        with self._lock:
            if pass_.nested and self._running:  # what it accumulates belongs to the pass that it runs in
                return
            running = self._running[pass_] = _Running()
            if pass_.accumulates:
                self._attach()
                self._open(pass_, running)

    def _open(self, pass_: Pass, running: _Running) -> None:
        number = len(self.passes) + 1
        running.record = LedgerPass(
            number, self._names, create_graph=pass_.create_graph, retain_graph=pass_.retain_graph
        )
        running.carried = [leaf.before() for leaf in self._leaves]
        self.passes.append(running.record)

    @torch.no_grad()
    def _end(self, pass_: Pass) -> None:
        with self._lock:
            running = self._running.pop(pass_, None)
            if running is None or running.record is None:
                return
            record = running.record
            record.error = None if pass_.error is None else f"{type(pass_.error).__name__}: {pass_.error}"
            for index, leaf in enumerate(self._leaves):
                contribution = running.contributions.get(index)
                total, total_norm = leaf.after(copy=self._keep != 0)
                carried = running.carried[index]
                norms = [None if contribution is None else norm(contribution), total_norm, carried.norm]
                events = [carried.event] if carried.event else []
                if contribution is not None and total_norm is None and pass_.error is None:
                    events.append("emptied in the pass")
                record.fill(index, contribution, total, norms, "; ".join(events))
            while self._keep is not None and self._dropped < len(self.passes) - self._keep:
                self.passes[self._dropped].drop()
                self._dropped += 1


def watch(params: ParamsLike, *, keep: int | None = None) -> Ledger:
    """Watch what each backward pass adds to the `.grad` of `params`.

        with gradgraph.watch(model) as ledger:
            loss.backward(create_graph=True)
            penalty.backward()
        print(ledger.table())

    The contribution of a pass is exactly what its engine run hands to the leaf, after the leaf's hooks; runs nested in
    it (reentrant checkpoints) are part of it, and `autograd.grad`, which accumulates nothing, is no pass. Between
    passes the ledger notes where `.grad` was set to None, zeroed, replaced or changed in place, `.grad.data` too. All
    tensors are detached copies: no graph is kept alive, and `.grad` is as it would be without the ledger.

    Args:
        params: the leaves to watch: a `Module`, an optimizer, a mapping from name to tensor, or an iterable of tensors
            or of (name, tensor). Unnamed ones take the caller's variable names, else `param0`, `param1`, ...
        keep: of how many of the last passes to keep the tensors (two per pass and leaf); None keeps all of them, 0 none
            (changes through `.grad.data` are then not noticed). Norms and events are kept always.

    Returns:
        The ledger, a context manager that records between enter and exit and is read during and after it.

    Raises:
        InputError: `params` holds no tensor, something that is no leaf, or nothing that requires grad.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> with gradgraph.watch(x) as ledger:
        ...     (x * x).backward()
        ...     (x * x).backward()
        >>> [(float(entry.contribution), float(entry.total)) for entry in ledger["x"]]
        [(6.0, 6.0), (6.0, 12.0)]
    """
    return Ledger(labelled(params, caller_namespace()), keep=keep)
