"""`record()`: watches a program run, so that each node's line, module, creator and backward pass are known."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from gradgraph.errors import InputError
from gradgraph.params import ParamsLike, caller_namespace
from gradgraph.recording.log import Log, PassRecord
from gradgraph.recording.session import recording_into

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph

__all__ = ["Recording", "record"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def record(*, source: bool = True, stack: bool = False) -> Recording:
    """Record a program as it runs: a context manager, which also wraps a function.

    Of each node that is made meanwhile, `trace` then knows the line of the program, the module and which call of it,
    the backward pass that made it and the node that was differentiated (`creator`), at every order. Nodes carry
    `provenance` `recorded`; nodes from before or after stay `inferred`, with nothing guessed.

    Works by the numbers that autograd gives to nodes: global module hooks, a `TorchFunctionMode` and hooks on the
    nodes that a pass with `create_graph=True` differentiates tell who took which. All of that is undone at the end,
    however it comes. Recordings may nest and overlap, in threads too: what one sees, all see. Holds no tensor and no
    module; memory is bounded, the oldest of several million nodes are forgotten.

    Args:
        source: note lines. Without, an operation costs nothing, but creators cost twice as much.
        stack: note, above the innermost line, those that called it, as node attribute `stack`, innermost first.

    Returns:
        A `Recording`, not yet begun.

    Cost: some 3 microseconds for each operation, and as much for each node that is differentiated with
    `create_graph=True`; nothing that can be measured in models of ordinary width.

    Example:
        >>> import torch, gradgraph
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> with gradgraph.record() as recording:
        ...     (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        >>> graph = recording.trace(slope, net)
        >>> tanh = next(key for key, data in graph.nodes(data=True) if data["op"] == "TanhBackward0")
        >>> graph.nodes[tanh]["module"], graph.nodes[tanh]["provenance"]
        ('1', 'recorded')
        >>> [data["op"] for _, data in graph.nodes(data=True) if data["creator"] == tanh]
        ['TanhBackwardBackward0']
    """
    return Recording(source=source, stack=stack)


class Recording:
    """What `record` gives. `with` begins it; entered again, it goes on where it stopped.

    Attributes:
        passes: the latest 10,000 runs of the engine, as `gradgraph.recording.log.PassRecord`s.
    """

    def __init__(self, *, source: bool = True, stack: bool = False) -> None:
        self._source = source or stack
        self._stack = stack
        self._log: Log | None = None
        self._entered: list[ExitStack] = []

    @property
    def active(self) -> bool:
        """Whether it is recording."""
        return bool(self._entered)

    @property
    def passes(self) -> list[PassRecord]:
        """Every run of the engine so far, the first first; of more than 10,000 the latest."""
        return list(self._begun().passes)

    def trace(
        self,
        outputs: Any,
        params: ParamsLike | None = None,
        *,
        lower: Sequence[Any] | Tensor = (),
        names: Mapping[str, Tensor] | None = None,
    ) -> AutogradGraph:
        """`gradgraph.trace`, with what this recording knows, even if a later one has begun.

        Raises:
            InputError: as `trace`, or the recording never began.
        """
        from gradgraph.tracer import trace_in

        return trace_in(caller_namespace(), outputs, params, lower=lower, names=names, log=self._begun())

    def __enter__(self) -> Recording:
        with ExitStack() as undo:
            self._log = undo.enter_context(recording_into(self._log, source=self._source, stack=self._stack))
            self._entered.append(undo.pop_all())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if not self._entered:
            raise InputError("this recording is not running, so it cannot end; begin it first: with record(): ...")
        self._entered.pop().close()

    def __call__(self, function: _Function) -> _Function:
        """Wrap `function`, or a coroutine function: each call is recorded.

        Raises:
            InputError: `function` is a generator function, whose body runs between its callers' lines.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InputError(
                f"record() cannot wrap the generator {function.__qualname__}: expected a function that runs to its "
                "end; write `with record():` around the loop that consumes it."
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def recorded(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def recorded(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

        return recorded  # type: ignore[return-value]

    def __repr__(self) -> str:
        state = "not begun" if self._log is None else "recording" if self.active else "finished"
        count = 0 if self._log is None else len(self._log.passes)
        passes = "" if self._log is None else f", {count} backward {'pass' if count == 1 else 'passes'}"
        return f"<Recording: {state}{passes}>"

    def _begun(self) -> Log:
        if self._log is None:
            raise InputError(
                "this recording has not begun: expected code that ran inside `with record() as recording:`, got none."
            )
        return self._log
