"""The diagonal entry by entry: one row of the Hessian for each, of which the diagonal's entry is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from gradgraph.curvature.budget import chunk_for
from gradgraph.curvature.first_order import FirstOrder
from gradgraph.curvature.report import ParameterReport
from gradgraph.curvature.rows import Plan, largest, one_hots, rows_between
from gradgraph.curvature.sharding import Share
from gradgraph.ledger import Ledger

__all__ = ["accumulated", "batched", "zeros"]

#: The diagonal of one parameter, and how it was computed.
Result = tuple[Tensor, ParameterReport]

_LINEAR = "its gradient does not depend on it"


def zeros(name: str, order: FirstOrder) -> Result:
    """Of a parameter whose gradient has no graph, or that the loss does not reach."""
    tensor = order.tensors[name]
    if order.reached[name] == "linear":
        reason = "the gradient does not depend on any parameter"
    else:
        reason = "the loss does not reach it" if tensor.requires_grad else "it does not require grad"
    return torch.zeros_like(tensor.detach()), ParameterReport("none", True, 0, 0, reason, order.reached[name])


def batched(
    name: str,
    order: FirstOrder,
    share: Share,
    advance: Callable[[int], None],
    chunk_size: int | None,
    memory: int | None,
    why: str = "",
) -> Result:
    """Many rows a pass; those of this rank, and zeros for the others'. `why` goes before the reason."""
    began = time.perf_counter()
    tensor, gradient = order.tensors[name], order.gradients[name]
    diagonal = torch.zeros(gradient.numel(), dtype=tensor.dtype, device=tensor.device)
    size = max(largest(one.detach()) for one in order.gradients.values())
    plan = Plan(*chunk_for(gradient, chunk_size, memory), size=size)
    first, last = share.slice(gradient.numel())
    most, reached = 0, _reached("curved")
    for start, (rows,) in rows_between(gradient, [tensor], first, last, plan, order.reset):
        if rows is None:
            advance(last - first)
            most, reached, plan.reason = 1, _reached("linear"), _LINEAR
            break
        index = torch.arange(len(rows), device=rows.device)
        diagonal[start : start + len(rows)] = rows.detach().reshape(len(rows), -1)[index, index + start]
        most = max(most, len(rows))
        advance(len(rows))
    reason = f"{why}; {plan.reason}" if why else plan.reason
    seconds = time.perf_counter() - began
    return diagonal.view(tensor.shape), ParameterReport("batched", True, plan.passes, most, reason, reached, seconds)


def accumulated(name: str, order: FirstOrder, share: Share, advance: Callable[[int], None]) -> Result:
    """One `backward(retain_graph=True)` a row, its contribution to `.grad` read from the ledger."""
    began = time.perf_counter()
    tensor, gradient = order.tensors[name], order.gradients[name]
    diagonal = torch.zeros(gradient.numel(), dtype=tensor.dtype, device=tensor.device)
    first, last = share.slice(gradient.numel())
    reached = _reached("curved")
    with _grad_lent(tensor) as empty, Ledger({name: tensor}, keep=1) as ledger:
        for entry in range(first, last):
            order.reset()
            empty()
            torch.autograd.backward(gradient, one_hots(gradient, entry, 1)[0], retain_graph=True, inputs=[tensor])
            contribution = ledger.contribution(name, entry - first + 1)
            if contribution is None:
                advance(last - first)
                reached = _reached("linear")
                break
            contribution = contribution if contribution.layout is torch.strided else contribution.to_dense()
            diagonal[entry] = contribution.reshape(-1)[entry]
            advance(1)
    reason = _LINEAR if reached == "linear" else "asked for"
    passes, seconds = len(ledger.passes), time.perf_counter() - began
    return diagonal.view(tensor.shape), ParameterReport("accumulate", True, passes, 1, reason, reached, seconds)


def _reached(one: Literal["curved", "linear"]) -> Literal["curved", "linear"]:
    return one


@contextmanager
def _grad_lent(tensor: Tensor) -> Iterator[Callable[[], None]]:
    """Lets passes use the tensor's `.grad`, and puts the very object back. Gives what empties it meanwhile."""
    grad = tensor.grad

    def empty() -> None:
        tensor.grad = None

    try:
        yield empty
    finally:
        tensor.grad = grad
