"""Compiled programs run on while they are recorded: torch.compile traces whatever wraps an operation, ours too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import gradgraph
from gradgraph import record

# Of torch's own, while it compiles.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return 2 * g * ctx.saved_tensors[0]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Square.apply(self.linear(x).tanh())
        return y


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_whole_graphs_still_compile(backend: str) -> None:
    torch._dynamo.reset()
    net, x = Net(), torch.randn(2, 3)
    plain = net(x)
    for _ in range(2):
        compiled: Any = torch.compile(net, backend=backend, fullgraph=True)
        with record() as recording:
            y = compiled(x)
            y.sum().backward()
            z = y.sum() * 2
        assert torch.equal(y, plain)
        graph = recording.trace(z)
        assert graph.nodes[graph.roots[0]]["source"].endswith("in test_whole_graphs_still_compile")


def test_recording_again_and_again_compiles_once() -> None:
    torch._dynamo.reset()
    counters.clear()
    net, x = Net(), torch.randn(2, 3)
    compiled: Any = torch.compile(net, backend="eager", fullgraph=True)
    compiled(x)
    for _ in range(12):  # torch gives up after 8
        with record():
            compiled(x)
        compiled(x)
    assert counters["stats"]["unique_graphs"] == 2


def test_transforms_of_functions() -> None:
    x = torch.tensor([0.5, 2.0, -1.0], requires_grad=True)

    def cubes(x: Tensor) -> Tensor:
        return (x**3).sum()

    with record() as recording:
        hessian = torch.func.hessian(cubes)(x)
        rows = torch.func.vmap(torch.func.grad(cubes))(x.repeat(2, 1))
        (slope,) = torch.autograd.grad(rows.sum(), x, create_graph=True)
    assert torch.allclose(hessian, torch.diag(6 * x))
    assert torch.allclose(slope, 12 * x)
    graph = recording.trace(slope)
    assert {data["provenance"] for _, data in graph.nodes(data=True)} == {"recorded"}
    assert gradgraph.trace(hessian).graph["recorded"]
