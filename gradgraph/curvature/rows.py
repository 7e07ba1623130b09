"""Rows of a Hessian: many in one pass where vmap can, one a pass where it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradgraph.errors import GradGraphError

__all__ = ["Plan", "Rows", "largest", "one_hots", "products_of", "rows_between", "rows_of"]

#: Per input its rows `[rows, *input.shape]`, None where the gradient does not depend on it.
Rows: TypeAlias = tuple["Tensor | None", ...]

#: What is differentiated by.
Inputs: TypeAlias = Sequence[Tensor] | Sequence[GradientEdge]


@dataclass
class Plan:
    """How rows are computed; `rows_of` adapts it to what it meets.

    Attributes:
        chunk: rows per pass, at most.
        reason: why, in words.
        way: which of the ways to batch is in use.
        passes: how many have been run.
        checked: whether a batch has been compared with a row computed alone.
        size: of the gradients that the rows are derivatives of, where others than the one at hand tell it, too.
    """

    chunk: int
    reason: str
    way: int = 0
    passes: int = 0
    checked: bool = False
    size: float = 0.0


def rows_of(gradient: Tensor, inputs: Inputs, plan: Plan, reset: Callable[[], None]) -> Iterator[tuple[int, Rows]]:
    """Rows of d gradient / d inputs, in chunks.

    Yields the number of the first row, and per input its rows `[rows, *input.shape]`, None where the gradient does not
    depend on it. The chunk is halved where memory runs out. Where no vmap can batch the graph, rows are computed one
    a pass. The first batch is compared with a row computed alone, since a wrong batching rule need not raise.

    Raises:
        GradGraphError: not even one row fits into memory.
    """
    yield from rows_between(gradient, inputs, 0, gradient.numel(), plan, reset)


def rows_between(
    gradient: Tensor, inputs: Inputs, first: int, last: int, plan: Plan, reset: Callable[[], None]
) -> Iterator[tuple[int, Rows]]:
    """As `rows_of`, the rows from `first` to `last`."""
    yield from _in_chunks(gradient, inputs, (first, last), partial(one_hots, gradient), plan, reset)


def products_of(
    gradient: Tensor, inputs: Inputs, vectors: Tensor, plan: Plan, reset: Callable[[], None]
) -> Iterator[tuple[int, Rows]]:
    """As `rows_of`, the rows of `vectors` (`[k, *gradient.shape]`) times d gradient / d inputs."""

    def part(start: int, count: int) -> Tensor:
        return vectors[start : start + count]

    yield from _in_chunks(gradient, inputs, (0, len(vectors)), part, plan, reset)


def _in_chunks(
    gradient: Tensor,
    inputs: Inputs,
    between: tuple[int, int],
    vectors: Callable[[int, int], Tensor],
    plan: Plan,
    reset: Callable[[], None],
) -> Iterator[tuple[int, Rows]]:
    start, stop = between
    while start < stop:
        count = min(plan.chunk, stop - start)
        rows, failure = _attempt(gradient, inputs, vectors(start, count), plan, reset)
        if rows is not None:
            yield start, rows
            start += count
        elif failure is not None:
            plan.way += 1
            if plan.way == len(_WAYS):
                plan.chunk, plan.reason = 1, f"one row a pass: {failure}"
        elif count > 1:
            plan.chunk, plan.reason = count // 2, f"memory ran out at {count} rows a pass"
        else:
            raise GradGraphError(
                f"one row of the Hessian, a pass over the graph of a gradient of {gradient.numel()} entries, does not "
                "fit into memory. Use a smaller batch, or free what else is held."
            )


def one_hots(like: Tensor, start: int, count: int) -> Tensor:
    """Rows `start` to `start + count` of the identity, each of `like`'s shape: `[count, *like.shape]`."""
    basis = torch.zeros(count, like.numel(), dtype=like.dtype, device=like.device)
    index = torch.arange(count, device=like.device)
    basis[index, index + start] = 1
    return basis.view(count, *like.shape)


def _attempt(
    gradient: Tensor, inputs: Inputs, vectors: Tensor, plan: Plan, reset: Callable[[], None]
) -> tuple[Rows | None, str | None]:
    """One chunk of rows; or None, and why the way to batch failed, or None where memory ran out."""
    reset()
    count = len(vectors)
    try:
        rows = (_alone if count == 1 else _WAYS[plan.way])(gradient, inputs, vectors)
        plan.passes += 1
        if count > 1 and not plan.checked:
            reset()
            if not _agrees(gradient, inputs, vectors, rows, plan):
                return None, "vmap gave another row than a pass of its own"
            plan.checked = True
    except (RuntimeError, MemoryError) as error:
        if _is_out_of_memory(error):
            return None, None
        if count == 1:
            raise
        return None, (str(error) or type(error).__name__).partition("\n")[0][:200]
    return rows, None


def _alone(gradient: Tensor, inputs: Inputs, basis: Tensor) -> Rows:
    """One row, by a plain pass."""
    rows = torch.autograd.grad(gradient, inputs, basis[0], retain_graph=True, allow_unused=True)
    return tuple(None if row is None else _dense(row).unsqueeze(0) for row in rows)


def _vmapped(gradient: Tensor, inputs: Inputs, basis: Tensor) -> Rows:
    """Rows by functorch's vmap, which knows the most batching rules."""
    reached: list[bool] = []

    def row(one_hot: Tensor) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(gradient, inputs, one_hot, retain_graph=True, allow_unused=True)
        reached[:] = [one is not None for one in found]
        return one_hot, *(one for one in found if one is not None)  # vmap must be given a tensor back

    with warnings.catch_warnings():
        # Slower than it might be is no news to the user, who did not ask for vmap.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        # A backward that runs a checkpointed forward again draws the forward's numbers, for every row the same.
        rows = iter(torch.func.vmap(row, randomness="same")(basis)[1:])
    return tuple(next(rows) if one else None for one in reached)


def _grads_batched(gradient: Tensor, inputs: Inputs, basis: Tensor) -> Rows:
    """Rows by torch's own batched gradients, which take custom Functions that have no vmap rule."""
    return torch.autograd.grad(gradient, inputs, basis, retain_graph=True, allow_unused=True, is_grads_batched=True)


_WAYS = (_vmapped, _grads_batched)

#: A row is noise below so many roundings of a gradient.
_ROUNDING = 64


def _agrees(gradient: Tensor, inputs: Inputs, vectors: Tensor, rows: Rows, plan: Plan) -> bool:
    """Whether the largest of `rows` is what a pass of its own gives, to rounding."""
    sizes = [row.reshape(len(row), -1).abs().sum(1) for row in rows if row is not None and row.numel()]
    if not sizes:
        return True
    at = int(torch.stack(sizes).sum(0).nan_to_num(posinf=0.0).argmax())
    plan.passes += 1
    alone = _alone(gradient, inputs, vectors[at : at + 1])
    known = [row for row in rows if row is not None and row.numel()]
    # A block of zeros, as of a bias before a batch norm, is rounding noise: it is compared on the scale of all.
    scale = max(largest(row) for row in known)
    size = max(plan.size, largest(gradient.detach()))
    for row, one in zip(rows, alone, strict=True):
        if (row is None) != (one is None):
            return False
        if row is not None and one is not None and row.numel():
            eps = torch.finfo(row.dtype).eps
            close = eps**0.5 * scale + _ROUNDING * eps * size
            if not torch.allclose(row[at], one[0], rtol=eps**0.5, atol=close, equal_nan=True):
                return False
    return True


def largest(tensor: Tensor) -> float:
    """The largest finite magnitude in `tensor`."""
    return float(tensor.abs().nan_to_num(0.0, posinf=0.0).max()) if tensor.numel() else 0.0


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
