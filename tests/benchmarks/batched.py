"""The Hessian's diagonal: `batched` against one backward pass for each entry."""

from __future__ import annotations

import torch
from torch import Tensor

import gradgraph
from tests.benchmarks import programs
from tests.benchmarks.timing import in_turn, markdown


def one_by_one(loss: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """The loop that everybody writes."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    diagonal = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        entries = torch.zeros_like(parameter).view(-1)
        for index in range(parameter.numel()):
            (row,) = torch.autograd.grad(gradient.view(-1)[index], parameter, retain_graph=True, allow_unused=True)
            if row is not None:
                entries[index] = row.view(-1)[index]
        diagonal.append(entries.view_as(parameter))
    return diagonal


def table() -> str:
    model, loss = programs.mlp_loss()
    parameters: list[Tensor] = list(model.parameters())
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        times = in_turn(
            3,
            loop=lambda: one_by_one(loss, parameters),
            batched=lambda: gradgraph.hessian_diagonal(loss, model, method="batched", progress=False),
            accumulate=lambda: gradgraph.hessian_diagonal(loss, model, method="accumulate", progress=False),
        )
        rows.append(
            [
                f"MLP 20-64-64-1, N 128, float64, {threads} thread" + ("s" if threads > 1 else ""),
                *(f"{times[name]:.3f}" for name in ("loop", "accumulate", "batched")),
                f"{times['loop'] / times['batched']:.1f} ×",
            ]
        )
    exact = torch.cat([entry.flatten() for entry in one_by_one(loss, parameters)])
    found = gradgraph.hessian_diagonal(loss, model, method="batched", progress=False)
    difference = (torch.cat([entry.flatten() for entry in found.values()]) - exact).abs().max().item()
    head = ["loss", "loop, s", "`accumulate`, s", "`batched`, s", "loop / `batched`"]
    return markdown(head, rows) + f"\n\nLargest difference between `batched` and the loop: {difference:.1e}."
