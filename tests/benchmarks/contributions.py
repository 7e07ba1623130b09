"""Curvature by operation: beside a product of the Hessian with a vector, and beside the diagonal without its split."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gradgraph
from tests.benchmarks.hessians import PROGRAMS, Program
from tests.benchmarks.timing import in_turn, markdown, one_thread

#: Of which the diagonal is split, too.
SPLIT = "MLP 20-64-64-1, N 128"


def by_hand(loss: Tensor, parameters: list[Tensor], direction: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The product with the Hessian that everybody writes."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    return torch.autograd.grad(gradients, parameters, direction, allow_unused=True)


def along(program: Program) -> dict[str, Callable[[], Any]]:
    parameters = program.parameters()
    direction = [torch.randn_like(parameter) for parameter in parameters]
    return {
        "hand": lambda: by_hand(program.loss(), parameters, direction),
        "hvp": lambda: gradgraph.hvp(program.loss(), program.model, direction),
        "curvature": lambda: gradgraph.curvature(program.loss(), program.model, direction, progress=False),
    }


def discrepancy(program: Program) -> float:
    """How far the contributions' sum is from eᵀHe, of eᵀHe."""
    parameters = program.parameters()
    direction = [torch.randn_like(parameter) for parameter in parameters]
    found = gradgraph.curvature(program.loss(), program.model, direction, progress=False)
    product = by_hand(program.loss(), parameters, direction)
    total = sum(float((e * p).sum()) for e, p in zip(direction, product, strict=True) if p is not None)
    return abs(sum(found.contributions.values()) - total) / abs(total)


def table() -> str:
    rows = []
    with one_thread():
        for name, build in PROGRAMS.items():
            torch.manual_seed(0)
            program = build()
            times = {
                key: 1e3 * seconds for key, seconds in in_turn(31, clock=time.thread_time, **along(program)).items()
            }
            rows.append(
                [
                    name,
                    *(f"{times[key]:.2f}" for key in ("hand", "hvp", "curvature")),
                    f"**{times['curvature'] / times['hvp']:.2f} ×**",
                    f"{discrepancy(program):.0e}",
                ]
            )
        torch.manual_seed(0)
        split = diagonals(PROGRAMS[SPLIT]())
    head = ["loss", "product by hand, ms", "`hvp`, ms", "`curvature` along it, ms", "`curvature` / `hvp`", "gap"]
    return markdown(head, rows) + "\n\n" + split


def diagonals(program: Program) -> str:
    times = in_turn(
        7,
        clock=time.thread_time,
        plain=lambda: gradgraph.hessian_diagonal(program.loss(), program.model, progress=False),
        split=lambda: gradgraph.curvature(program.loss(), program.model, per_entry=True, progress=False),
    )
    return markdown(
        ["loss", "`hessian_diagonal`, ms", "`curvature(per_entry=True)`, ms", "ratio"],
        [
            [
                SPLIT,
                *(f"{1e3 * times[key]:.1f}" for key in ("plain", "split")),
                f"**{times['split'] / times['plain']:.2f} ×**",
            ]
        ],
    )
