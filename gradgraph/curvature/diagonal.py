"""The diagonal of the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from gradgraph.curvature.budget import chunk_for
from gradgraph.curvature.first_order import FirstOrder, first_order
from gradgraph.curvature.progress import Progress
from gradgraph.curvature.report import ParameterReport
from gradgraph.curvature.rows import Plan, one_hots, rows_of
from gradgraph.errors import InputError
from gradgraph.graph import AutogradGraph
from gradgraph.labels import gone, keys_of, labelled, recall
from gradgraph.ledger import Ledger
from gradgraph.measure import norm
from gradgraph.params import ParamsLike, caller_namespace

__all__ = ["HessianDiagonal", "hessian_diagonal"]

Method = Literal["auto", "accumulate", "batched"]
_METHODS = ("auto", "accumulate", "batched")
_COLUMNS = ("parameter", "shape", "min", "mean", "max", "zeros", "method", "passes", "reached")


class HessianDiagonal(dict[str, Tensor]):
    """The diagonal of a Hessian: for each parameter, by name, a tensor of its shape and dtype.

    Attributes:
        report: how each parameter's part was computed, and what was found.
    """

    def __init__(
        self, values: Mapping[str, Tensor], report: Mapping[str, ParameterReport], tensors: Mapping[str, Tensor]
    ) -> None:
        super().__init__(values)
        self.report = dict(report)
        self._tensors = {name: recall(tensor) for name, tensor in tensors.items()}

    def __getstate__(self) -> dict[str, Any]:
        # A saved result is matched with a graph by name.
        return {"report": self.report, "_tensors": dict.fromkeys(self, gone)}

    def annotations(self, graph: AutogradGraph) -> dict[int, dict[str, Any]]:
        """For `annotate(graph, "hessian_diagonal", result)`: figures of each parameter's part, per leaf."""
        keys = keys_of(graph, self._tensors, "Hessian diagonal")
        return {key: _figures(self[name], self.report[name]) for name, key in keys.items()}

    def __repr__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("parameter", "shape", "min", "mean", "max", "zeros", "method", "passes", "reached")
        ]
        for name, values in list(self.items())[:30]:
            report = self.report[name]
            figures = _figures(values, report)
            numbers = ["–" if figures[key] is None else f"{figures[key]:.4g}" for key in ("min", "mean", "max")]
            rows.append((name, str(list(values.shape)), *numbers, str(figures["zeros"]), *_how(report)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if len(self) > 30:
            lines.append(f"... and {len(self) - 30} more parameters")
        return "\n".join([f"<HessianDiagonal: {len(self)} parameters>", *lines])


def hessian_diagonal(
    loss: Tensor,
    params: ParamsLike,
    *,
    method: Method = "auto",
    chunk_size: int | None = None,
    memory: int | None = None,
    progress: bool | None = None,
) -> HessianDiagonal:
    """The diagonal of the Hessian of `loss`: d²loss / dp² for every entry p of every parameter, exact to rounding.

    One row of the Hessian, that is one pass over the graph of the gradient, per entry; of each row only the diagonal
    entry is kept. `.grad`, the RNG, hooks and the graph of the loss are afterwards as before. Hooks on the parameters
    themselves do not run; those on other tensors do, and so does the backward of custom Functions.

    Args:
        loss: a real scalar with a graph that no pass has freed.
        params: what to differentiate by: a `Module`, an optimizer, a mapping from name to tensor, or an iterable of
            tensors or of (name, tensor). Unnamed ones take the caller's variable names, else `param0`, `param1`, ...
        method: "accumulate": one `backward(retain_graph=True)` per entry, its contribution to `.grad` read from the
            ledger. The reference: slow and simple, for leaves. "batched": many rows in one pass by vmap, one a pass
            where the graph cannot be batched. "auto": the cheaper of those, which is "batched".
        chunk_size: rows per pass; by default as many as `memory` holds.
        memory: bytes that the rows of one pass may take; by default what is plenty for speed (16 MiB on a CPU, 1 GiB
            on a GPU), and never more than a quarter of what is free. A single row may need more: it is computed alone.
        progress: True shows a progress bar, False none, None one on a terminal or in a notebook, after a second.

    Returns:
        A dict from name to a tensor of the parameter's shape and dtype, with `.report`. Parameters whose gradient does
        not depend on them give zeros ("linear" in the report), and so do those that the loss does not reach
        ("unreachable").

    Raises:
        InputError: the loss is no real scalar, has no graph or a freed one, or reaches none of the parameters; a
            parameter is complex, or no leaf (method "accumulate").
        GradGraphError: something in the graph cannot be differentiated twice.

    Cost: as many rows as entries; a row costs about two passes over the graph of the loss.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradgraph.hessian_diagonal((x**3).sum(), x)["x"]
        tensor([ 6., 12.])
    """
    if method not in _METHODS:
        raise InputError(f"method expected one of {', '.join(map(repr, _METHODS))}, got {method!r}.")
    tensors = labelled(params, caller_namespace())
    if method == "accumulate":
        _check_leaves(tensors)
    values: dict[str, Tensor] = {}
    report: dict[str, ParameterReport] = {}
    with (
        first_order("hessian_diagonal", loss, tensors) as order,
        Progress(sum(one.numel() for one in order.gradients.values()), "hessian diagonal", progress) as bar,
    ):
        for name in tensors:
            if name not in order.gradients:
                values[name], report[name] = _zeros(name, order)
            elif method == "accumulate":
                values[name], report[name] = _accumulated(name, order, bar)
            else:
                values[name], report[name] = _batched(
                    name, order, bar, chunk_for(order.gradients[name], chunk_size, memory)
                )
    return HessianDiagonal(values, report, tensors)


def _zeros(name: str, order: FirstOrder) -> tuple[Tensor, ParameterReport]:
    tensor = order.tensors[name]
    if order.reached[name] == "linear":
        reason = "the gradient does not depend on any parameter"
    else:
        reason = "the loss does not reach it" if tensor.requires_grad else "it does not require grad"
    return torch.zeros_like(tensor.detach()), ParameterReport("none", True, 0, 0, reason, order.reached[name])


def _batched(name: str, order: FirstOrder, bar: Progress, chunk: tuple[int, str]) -> tuple[Tensor, ParameterReport]:
    tensor, gradient = order.tensors[name], order.gradients[name]
    diagonal = torch.zeros(gradient.numel(), dtype=tensor.dtype, device=tensor.device)
    plan = Plan(*chunk)
    most = 0
    for start, (rows,) in rows_of(gradient, [tensor], plan, order.reset):
        if rows is None:
            bar.advance(gradient.numel())
            reason = "its gradient does not depend on it"
            return diagonal.view(tensor.shape), ParameterReport("batched", True, plan.passes, 1, reason, "linear")
        index = torch.arange(len(rows), device=rows.device)
        diagonal[start : start + len(rows)] = rows.detach().reshape(len(rows), -1)[index, index + start]
        most = max(most, len(rows))
        bar.advance(len(rows))
    return diagonal.view(tensor.shape), ParameterReport("batched", True, plan.passes, most, plan.reason, "curved")


def _accumulated(name: str, order: FirstOrder, bar: Progress) -> tuple[Tensor, ParameterReport]:
    tensor, gradient = order.tensors[name], order.gradients[name]
    diagonal = torch.zeros(gradient.numel(), dtype=tensor.dtype, device=tensor.device)
    reached: Literal["curved", "linear"] = "curved"
    with _grad_lent(tensor) as empty, Ledger({name: tensor}, keep=1) as ledger:
        for entry in range(gradient.numel()):
            order.reset()
            empty()
            torch.autograd.backward(gradient, one_hots(gradient, entry, 1)[0], retain_graph=True, inputs=[tensor])
            contribution = ledger.contribution(name, entry + 1)
            if contribution is None:
                bar.advance(gradient.numel())
                reached = "linear"
                break
            contribution = contribution if contribution.layout is torch.strided else contribution.to_dense()
            diagonal[entry] = contribution.reshape(-1)[entry]
            bar.advance(1)
    reason = "its gradient does not depend on it" if reached == "linear" else "asked for"
    return diagonal.view(tensor.shape), ParameterReport("accumulate", True, len(ledger.passes), 1, reason, reached)


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


def _check_leaves(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_leaf:
            raise InputError(
                f'method "accumulate" expected leaves, whose .grad a pass adds to, but {name!r} is the result of a '
                f'{type(tensor.grad_fn).__name__}. Use method="batched".'
            )


def _how(report: ParameterReport) -> tuple[str, str, str]:
    return report.method, str(report.passes), report.reached


def _figures(values: Tensor, report: ParameterReport) -> dict[str, Any]:
    """The node attribute `hessian_diagonal`. Figures of a tensor without entries are None."""
    wide = values.detach().cpu().double()  # not every device has float64
    empty = wide.numel() == 0
    return {
        "method": report.method,
        "exact": report.exact,
        "mean": None if empty else float(wide.mean()),
        "min": None if empty else float(wide.min()),
        "max": None if empty else float(wide.max()),
        "norm": norm(values),
        "negative": int((wide < 0).sum()),
        "zeros": int((wide == 0).sum()),
        "stderr": None,
    }
