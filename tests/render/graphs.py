"""Graphs to draw: one made by hand, the same under every torch, and some traced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradgraph import AutogradGraph, trace
from gradgraph.graph import NODE_ATTRIBUTES
from tests import cases

GOLDENS = Path(__file__).parent / "goldens"


def compare(name: str, content: str, regenerate: bool) -> None:
    """Compare with a golden file, or write it."""
    path = GOLDENS / name
    if regenerate:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert content == path.read_text(encoding="utf-8")


def made(
    nodes: Sequence[dict[str, Any]], edges: Sequence[tuple[int, ...]], roots: Sequence[int] = (0,)
) -> AutogradGraph:
    """A graph from attributes and edges (u, v, slot, output_nr, 1 for curvature; the last three may be left out)."""
    graph = AutogradGraph()
    for key, attributes in enumerate(nodes):
        graph.add_node(key, **{**copy.deepcopy(NODE_ATTRIBUTES), **attributes})
    for u, v, *rest in edges:
        slot, output_nr, curvature = [*rest, 0, 0, 0][:3]
        graph.add_edge(u, v, slot, output_nr=output_nr, role="curvature" if curvature else "gradient")
    graph.graph.update(schema=1, roots=list(roots), unreached=[], orders=sorted(graph.by_order()))
    return graph


def out(*shape: int, dtype: str = "float32", device: str = "cpu") -> dict[str, Any]:
    return {"shape": list(shape), "dtype": dtype, "device": device}


def saved(name: str, shape: list[int], storage: int | None, state: str = "live") -> dict[str, Any]:
    size = 4
    for length in shape:
        size *= length
    known = state in ("live", "modified")
    return {
        "name": name,
        "shape": shape if known else None,
        "dtype": "float32" if known else None,
        "bytes": size if known else None,
        "storage": storage if known else None,
        "state": state,
        "version": 0,
    }


def stats(norm: float | None, *, numel: int = 6, **more: int) -> dict[str, Any]:
    counts = {"zeros": 0, "nan": 0, "inf": 0}
    return {"norm": norm, "mean": norm, "max_abs": norm, "numel": numel, **counts, **more}


def sample() -> AutogradGraph:
    """Every kind, two orders, shared leaf, parallel edges, several outputs, every annotation, hostile names."""
    diagonal = {"method": "batched", "exact": True, "mean": 0.5, "min": -1.25, "max": 3.0, "norm": 4.0}
    weight = {
        "op": "AccumulateGrad",
        "kind": "leaf",
        "name": "encoder.0.weight",
        "outputs": [out(2, 3)],
        "module": "encoder.0",
        "storage": 2,
        "gradient": [stats(0.25)],
        "accumulated": [{"pass": 1, "contribution": 2.0, "total": 2.0}, {"pass": 2, "contribution": 1.0, "total": 3.0}],
        "hessian_diagonal": {**diagonal, "negative": 2, "zeros": 0, "stderr": None},
    }
    hostile: dict[str, Any] = {
        "kind": "leaf",
        "op": "AccumulateGrad",
        "name": '<script>"\\N":&amp;</script>',
        "outputs": [out(3)],
    }
    nodes: list[dict[str, Any]] = [
        {"op": "SumBackward0", "order": 1, "outputs": [out()], "name": "penalty", "gradient": [stats(1.0, numel=1)]},
        {
            "op": "MulBackward0",
            "order": 1,
            "outputs": [out(2, 3)],
            "saved": [saved("self", [2, 3], 0), saved("other", [2, 3], 1, "modified")],
            "saved_bytes": 48,
            "gradient": [stats(None, nan=5, inf=1)],
        },
        {
            "op": "SplitBackward0",
            "outputs": [out(2, 3), out(2, 3)],
            "source": "train.py:12 in step",
            "gradient": [stats(0.5), None],
        },
        {"op": "<lambda>Backward", "kind": "custom", "outputs": [out(4, 3, dtype="float64")], "curvature": -1.5},
        {
            "op": "AddmmBackward0",
            "outputs": [out(4, 3)],
            "module": "encoder.0",
            "detached_slots": 1,
            "saved": [saved("mat1", [4, 3], None, "freed"), saved("mat2", [2, 3], 2), saved("x", [1], None, "packed")],
            "saved_bytes": 24,
            "gradient": [stats(0.0, zeros=6)],
        },
        {"op": "CheckpointFunctionBackward", "kind": "opaque", "outputs": [out(4, 3)]},
        {"op": "OnceBackward", "kind": "blocked", "outputs": [out(4, 3)]},
        weight,
        hostile,
    ]
    edges = [
        (0, 1),
        (1, 2, 0, 0, 1),
        (1, 2, 1, 1, 1),
        (2, 3),
        (3, 4, 0),
        (3, 4, 1),
        (4, 5, 0),
        (4, 7, 2),
        (5, 6),
        (5, 7, 1),
        (6, 8),
    ]
    return made(nodes, edges)


def double_backward() -> AutogradGraph:
    """An MLP's loss and the squared norm of its gradient."""
    net = cases.mlp(torch.float32)
    loss = net(torch.ones(5, 3)).square().mean()
    return trace(_penalty(loss, list(net.parameters())), net, lower=[loss])


def chain(length: int) -> AutogradGraph:
    """One weight, used again and again."""
    weight = torch.tensor(1.0, requires_grad=True)
    state = torch.ones(())
    for _ in range(length):
        state = state * weight
    return trace(state, {"weight": weight})


def tangle(depth: int) -> AutogradGraph:
    """The double backward of a deep network: few boxes and long edges."""
    net = nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(4, 4), nn.Tanh())])
    loss = net(torch.ones(2, 4)).square().mean()
    return trace(_penalty(loss, list(net.parameters())), net, lower=[loss])


def four_orders() -> AutogradGraph:
    """All derivatives of sin(x y) by x up to the fourth."""
    x, y = (torch.tensor(value, requires_grad=True) for value in (1.0, 2.0))
    results = [(x * y).sin()]
    for _ in range(4):
        results += torch.autograd.grad(results[-1], x, create_graph=True)
    return trace(results, {"x": x, "y": y}, lower=results[:-1])


def conv_net() -> AutogradGraph:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    )
    return trace(nn.functional.cross_entropy(net(torch.ones(2, 1, 8, 8)), torch.tensor([1, 2])), net)


def _penalty(loss: Tensor, params: list[nn.Parameter]) -> Tensor:
    gradients = torch.autograd.grad(loss, params, create_graph=True)
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum()


def _traced(case: Callable[[], cases.Case]) -> Callable[[], AutogradGraph]:
    def graph() -> AutogradGraph:
        built = case()
        return trace(built.outputs, built.params, lower=built.lower)

    return graph


#: Graphs that tell the most about drawing, by name.
GALLERY: dict[str, Callable[[], AutogradGraph]] = {
    "sample": sample,
    "double_backward": double_backward,
    "chain": lambda: chain(6),
    "four_orders": four_orders,
    "conv_net": conv_net,
    "multi_output": _traced(cases.multi_output),
    "custom_function": _traced(cases.custom_function),
    "checkpoint_reentrant": _traced(cases.checkpoint_reentrant),
    "maml": _traced(cases.maml),
    "attention": _traced(cases.attention),
}
