"""Products of the Hessian with vectors, and the whole Hessian: gradgraph, torch by hand, and torch's own functions."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import gradgraph
from tests.benchmarks.hessians import PROGRAMS, Program, convolutions, middle, perceptron, small
from tests.benchmarks.timing import markdown, one_thread


def in_a_loop(runs: int, **candidates: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each candidate over `runs` rounds of all, the garbage collector at work as in any program.

    `in_turn` collects before each call, and after a collection gradgraph looks for retained tensors among all objects.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, call in candidates.items():
            start = time.perf_counter()
            result = call()
            times[name].append(time.perf_counter() - start)
            del result
    return {name: statistics.median(values) for name, values in times.items()}


def twice(loss: Tensor, parameters: list[Tensor], vector: list[Tensor]) -> tuple[Tensor, ...]:
    """The product as everybody writes it; the graph stays."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    return torch.autograd.grad(gradients, parameters, vector, retain_graph=True)


def forward_over_reverse(program: Program, vector: dict[str, Tensor]) -> list[Tensor | None]:
    """Dual parameters through the forward and the backward; the fastest way that torch has for it."""
    parameters = dict(program.model.named_parameters())
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(parameter, vector[name]) for name, parameter in parameters.items()}
        outputs = torch.func.functional_call(program.model, duals, (program.x,))
        gradients = torch.autograd.grad(program.criterion(outputs, program.y), list(parameters.values()))
        return [forward_ad.unpack_dual(gradient).tangent for gradient in gradients]


def silu_net() -> Program:
    model = nn.Sequential(nn.Linear(20, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    x, y = torch.randn(128, 20, dtype=torch.float64), torch.randn(128, 1, dtype=torch.float64)
    return Program(model.double(), nn.MSELoss(), x, y)


class Squares(nn.Module):
    """`MSELoss` by operations whose backward has a forward derivative, which its own lacks."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        result: Tensor = (outputs - targets).square().mean()
        return result


def table() -> str:
    """Products, in ms: from a loss, and from the inputs."""
    lines = []
    with one_thread():
        for name, build in {**PROGRAMS, "SiLU 20-64-64-1, N 128": silu_net}.items():
            torch.manual_seed(0)
            program = build()
            if isinstance(program.criterion, nn.MSELoss):
                program.criterion = Squares()
            lines.append([name, *products(program)])
    head = ["loss", "by hand", "`hvp`", "operator", "by hand, from the inputs", "forward over reverse"]
    return markdown(head, lines)


def products(program: Program) -> list[str]:
    vector = {name: torch.randn_like(parameter) for name, parameter in program.model.named_parameters()}
    parameters, entries = program.parameters(), list(vector.values())
    loss = program.loss()
    operator = gradgraph.HessianOperator(loss, program.model)
    candidates: dict[str, Callable[[], Any]] = {
        "by_hand": lambda: twice(loss, parameters, entries),
        "hvp": lambda: gradgraph.hvp(loss, program.model, vector),
        "operator": lambda: operator(vector),
        "from_inputs": lambda: twice(program.loss(), parameters, entries),
    }
    try:
        forward_over_reverse(program, vector)
    except (NotImplementedError, RuntimeError):
        forward = "refused"
    else:
        candidates["forward"] = lambda: forward_over_reverse(program, vector)
        forward = ""
    times = in_a_loop(15, **candidates)
    figures = [f"{1e3 * times[name]:.2f}" for name in ("by_hand", "hvp", "operator", "from_inputs")]
    return [*figures, forward or f"{1e3 * times['forward']:.2f}"]


def normed() -> Program:
    model = nn.Sequential(
        nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3)
    )
    x = torch.randn(32, 8, dtype=torch.float64)
    return Program(model.double(), nn.CrossEntropyLoss(), x, torch.randint(0, 3, (32,)))


def shallow() -> Program:
    x, y = torch.randn(64, 5, dtype=torch.float64), torch.randn(64, 2, dtype=torch.float64)
    return Program(perceptron(5, 16, 16, 2), nn.MSELoss(), x, y)


WHOLE: dict[str, Callable[[], Program]] = {
    "MLP 1-10-10-1, N 1000": small,
    "MLP 5-16-16-2, N 64": shallow,
    "LayerNorm, GELU, N 32": normed,
    "conv net, N 16": convolutions,
    "MLP 20-64-64-1, N 128": middle,
}


def blocks() -> str:
    """The whole Hessian, in ms."""
    lines = []
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of slow batching rules
        for name, build in WHOLE.items():
            torch.manual_seed(0)
            program = build()
            times = in_a_loop(3 if program.entries() < 3000 else 1, **whole(program))
            ours = times["full"]
            row = [f"{1e3 * seconds:.0f}" for seconds in times.values()]
            best = min(times["func"], times["vectorized"])
            lines.append([name, f"{program.entries():,}", *row, f"{best / ours:.1f} ×"])
    head = [
        "loss",
        "entries",
        "`torch.func.hessian`",
        "`functional.hessian(vectorize=True)`",
        '`hessian(blocks="full")`',
        "own blocks alone",
        "faster than the better",
    ]
    return markdown(head, lines)


def whole(program: Program) -> dict[str, Callable[[], Any]]:
    """Ways to the whole Hessian; each computes the loss as well."""
    tensors = {name: parameter.detach() for name, parameter in program.model.named_parameters()}
    criterion = Squares() if isinstance(program.criterion, nn.MSELoss) else program.criterion

    def loss(given: dict[str, Tensor]) -> Tensor:
        outputs = torch.func.functional_call(program.model, given, (program.x,))
        result: Tensor = criterion(outputs, program.y)
        return result

    def of_tuple(*given: Tensor) -> Tensor:
        return loss(dict(zip(tensors, given, strict=True)))

    # Its second argument is a tuple where the loss takes several tensors.
    functional: Any = torch.autograd.functional.hessian
    return {
        "func": lambda: torch.func.hessian(loss)(tensors),
        "vectorized": lambda: functional(of_tuple, tuple(tensors.values()), vectorize=True),
        "full": lambda: gradgraph.hessian(program.loss(), program.model, blocks="full"),
        "own": lambda: gradgraph.hessian(program.loss(), program.model),
    }
