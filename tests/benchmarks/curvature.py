"""The Hessian's diagonal, exact: the loop that everybody writes, BackPACK, and gradgraph; and what estimates miss.

One thread. Every candidate starts at the inputs and computes the loss as well. Where BackPACK takes the model, its
figures are compared with ours; it is a peer, from the extra `bench`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gradgraph
from tests.benchmarks.batched import one_by_one
from tests.benchmarks.hessians import PROGRAMS, Program
from tests.benchmarks.timing import in_turn, markdown, one_thread

#: Rows that stand for all where the whole loop would take minutes.
SAMPLE = 200


def sampled_rows(program: Program) -> Callable[[], None]:
    """`SAMPLE` rows of the loop, evenly spread over all entries; their gradient is computed before."""
    parameters = program.parameters()
    gradients = torch.autograd.grad(program.loss(), parameters, create_graph=True)
    flat = [
        (gradient, parameter, entry)
        for gradient, parameter in zip(gradients, parameters, strict=True)
        for entry in range(parameter.numel())
    ]
    chosen = [flat[i * len(flat) // SAMPLE] for i in range(SAMPLE)]

    def rows() -> None:
        for gradient, parameter, entry in chosen:
            torch.autograd.grad(gradient.view(-1)[entry], parameter, retain_graph=True, allow_unused=True)

    return rows


def backpack(program: Program) -> Callable[[], list[Tensor]]:
    """BackPACK's DiagHessian of a copy of the model that it extends."""
    from backpack import backpack as active
    from backpack import extend
    from backpack.extensions import DiagHessian

    model, criterion = extend(copy.deepcopy(program.model)), extend(copy.deepcopy(program.criterion))
    parameters: list[Any] = list(model.parameters())

    def diagonal() -> list[Tensor]:
        with warnings.catch_warnings(), active(DiagHessian()):
            warnings.simplefilter("ignore")
            criterion(model(program.x), program.y).backward()
        found = [parameter.diag_h for parameter in parameters]
        for parameter in parameters:
            del parameter.diag_h
            parameter.grad = None
        return found

    return diagonal


def candidates(program: Program) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {
        "auto": lambda: gradgraph.hessian_diagonal(program.loss(), program.model, progress=False)
    }
    if program.whole_loop:
        found["loop"] = lambda: one_by_one(program.loss(), program.parameters())
        found["batched"] = lambda: gradgraph.hessian_diagonal(
            program.loss(), program.model, method="batched", progress=False
        )
    else:
        found["rows"] = sampled_rows(program)
    if program.backpack:
        found["backpack"] = backpack(program)
    return found


def gap(found: list[Tensor], reference: list[Tensor]) -> float:
    """The largest difference, of the largest entry of its parameter."""
    return max(
        (one - other).abs().max().item() / max(other.abs().max().item(), 1e-300)
        for one, other in zip(found, reference, strict=True)
    )


def row(name: str, program: Program, runs: int) -> list[str]:
    calls = candidates(program)
    peers = [list(calls[peer]()) for peer in ("loop", "backpack") if peer in calls]
    mine = list(calls["auto"]().values())
    difference = f"{max(gap(mine, peer) for peer in peers):.0e}" if peers else "–"
    times = {key: 1e3 * seconds for key, seconds in in_turn(runs, **calls).items()}
    about = "" if program.whole_loop else "≈ "
    loop = times["loop"] if program.whole_loop else times["rows"] * program.entries() / SAMPLE
    return [
        name,
        f"{program.entries():,}",
        f"{about}{loop:,.1f}",
        f"{times['backpack']:.1f}" if program.backpack else "cannot",
        f"{times['batched']:.1f}" if program.whole_loop else "–",
        f"{times['auto']:.1f}",
        f"**{about}{loop / times['auto']:,.0f} ×**",
        f"**{times['backpack'] / times['auto']:.2f} ×**" if program.backpack else "–",
        difference,
    ]


def table() -> str:
    head = ["loss", "entries", "loop, ms", "BackPACK, ms", "`batched`, ms", "`auto`, ms", "loop / `auto`"]
    head += ["BackPACK / `auto`", "gap"]
    rows = []
    with one_thread():
        for name, build in PROGRAMS.items():
            torch.manual_seed(0)
            program = build()
            rows.append(row(name, program, 21 if program.entries() < 1000 else 5))
    return markdown(head, rows)
