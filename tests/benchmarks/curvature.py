"""The Hessian's diagonal, exact: the loop that everybody writes, BackPACK, and gradgraph; and what estimates miss.

Processor time on one thread. Every candidate starts at the inputs and computes the loss as well. BackPACK is a peer,
from the extra `bench`.
"""

from __future__ import annotations

import copy
import time
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
#: Hessian-vector products that an estimate may take.
PRODUCTS = 100


def sampled(program: Program) -> Callable[[], list[Tensor]]:
    """`SAMPLE` rows of the loop, evenly spread over all entries; their gradient is computed before.

    A call gives the diagonal, NaN where no row was computed.
    """
    parameters = program.parameters()
    gradients = torch.autograd.grad(program.loss(), parameters, create_graph=True)
    places = [(number, entry) for number, one in enumerate(parameters) for entry in range(one.numel())]
    chosen = [places[i * len(places) // SAMPLE] for i in range(SAMPLE)]

    def rows() -> list[Tensor]:
        found = [torch.full_like(parameter, float("nan")) for parameter in parameters]
        for number, entry in chosen:
            slope = gradients[number].view(-1)[entry]
            (row,) = torch.autograd.grad(slope, parameters[number], retain_graph=True)
            found[number].view(-1)[entry] = row.view(-1)[entry]
        return found

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


def exact(program: Program) -> list[Tensor]:
    return list(gradgraph.hessian_diagonal(program.loss(), program.model, progress=False).values())


def candidates(program: Program) -> dict[str, Callable[[], list[Tensor]]]:
    """The peers first, and `auto` at the end."""
    found: dict[str, Callable[[], list[Tensor]]] = {}
    if program.whole_loop:
        found["loop"] = lambda: one_by_one(program.loss(), program.parameters())
        found["batched"] = lambda: list(
            gradgraph.hessian_diagonal(program.loss(), program.model, method="batched", progress=False).values()
        )
    else:
        found["loop"] = sampled(program)
    if program.backpack:
        found["backpack"] = backpack(program)
    found["auto"] = lambda: exact(program)
    return found


def gap(found: list[Tensor], reference: list[Tensor]) -> float:
    """The largest difference where the reference has a number, of its parameter's largest."""
    gaps = []
    for one, other in zip(found, reference, strict=True):
        known = ~other.isnan()
        if other[known].count_nonzero():
            gaps.append(float((one - other)[known].abs().max() / other[known].abs().max()))
    return max(gaps)


def row(name: str, program: Program, runs: int) -> list[str]:
    results: dict[str, list[Tensor]] = {}

    def kept(key: str, call: Callable[[], list[Tensor]]) -> Callable[[], None]:
        def run() -> None:
            results[key] = call()

        return run

    calls = {key: kept(key, call) for key, call in candidates(program).items()}
    times = {key: 1e3 * seconds for key, seconds in in_turn(runs, clock=time.thread_time, **calls).items()}
    difference = max(gap(results["auto"], result) for key, result in results.items() if key != "auto")
    whole = times["loop"] * (1 if program.whole_loop else program.entries() / SAMPLE)
    about = "" if program.whole_loop else "≈ "
    return [
        name,
        f"{program.entries():,}",
        f"{about}{whole:,.0f}",
        f"{times['backpack']:,.1f}" if program.backpack else "cannot",
        f"{times['batched']:,.1f}" if program.whole_loop else "–",
        f"{times['auto']:,.1f}",
        f"**{about}{whole / times['auto']:,.1f} ×**",
        f"**{times['backpack'] / times['auto']:.2f} ×**" if program.backpack else "–",
        f"{difference:.0e}",
    ]


def runs_of(program: Program) -> int:
    """Fewer, the longer one takes."""
    if program.entries() < 1000:
        return 21
    return 1 if program.entries() > 100_000 else 5


def table() -> str:
    head = ["loss", "entries", "loop, ms", "BackPACK, ms", "`batched`, ms", "`auto`, ms", "loop / `auto`"]
    head += ["BackPACK / `auto`", "gap"]
    rows = []
    with one_thread():
        for name, build in PROGRAMS.items():
            torch.manual_seed(0)
            program = build()
            rows.append(row(name, program, runs_of(program)))
    return markdown(head, rows)


def estimates() -> str:
    """How far the estimators are off, and how far they say that they are: norms, of the diagonal's."""
    head = ["loss", *(f"`{method}`, {what}" for method in ("hutchinson", "xdiag") for what in ("off by", "stderr"))]
    rows = []
    with one_thread():
        for name, build in PROGRAMS.items():
            torch.manual_seed(0)
            program = build()
            if program.entries() > 100_000:
                continue
            reference = joined(exact(program))
            cells = []
            for method in ("hutchinson", "xdiag"):
                found = gradgraph.hessian_diagonal(
                    program.loss(), program.model, method=method, probes=PRODUCTS, progress=False
                )
                error = joined(list(found.values())) - reference
                parts = error, joined(list(found.stderr.values()))
                cells += [f"{float(one.norm() / reference.norm()):.0%}" for one in parts]
            rows.append([name, *cells])
    return markdown(head, rows)


def joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in tensors])
