"""`trace()` against the bare minimum (walk, and add bare nodes and edges to a MultiDiGraph) and against torchviz."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx as nx
from torch import Tensor, nn

import gradgraph
from tests.benchmarks import programs
from tests.benchmarks.timing import in_turn, markdown


def floor(root: Tensor) -> nx.MultiDiGraph[int]:
    """The least that gives a graph: no names, no metadata, no saved tensors."""
    graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
    nodes: list[Any] = [root.grad_fn]
    keys = {root.grad_fn: 0}
    edges = []
    for u, fn in enumerate(nodes):
        graph.add_node(u)
        for slot, (child, _) in enumerate(fn.next_functions):
            if child is not None:
                if child not in keys:
                    keys[child] = len(nodes)
                    nodes.append(child)
                edges.append((u, keys[child], slot))
    for u, v, slot in edges:
        graph.add_edge(u, v, slot)
    return graph


def traced(root: Tensor) -> gradgraph.AutogradGraph:
    """Saved tensors, metadata, orders: all but the names of parameters, which the floor does not give either."""
    return gradgraph.trace(root)


def torchviz(root: Tensor, model: nn.Module | None) -> Any:
    from torchviz import make_dot

    return make_dot(root, dict(model.named_parameters()) if model else None, show_attrs=True, show_saved=True)


def row(name: str, root: Tensor, model: nn.Module | None, runs: int, *, peer: bool) -> list[str]:
    candidates: dict[str, Callable[[], Any]] = {"floor": lambda: floor(root), "trace": lambda: traced(root)}
    if peer:
        candidates["torchviz"] = lambda: torchviz(root, model)
    times = in_turn(runs, **candidates)
    nodes = len(floor(root))
    other = f"{times['torchviz'] / times['trace']:.1f} ×" if peer else "RecursionError"
    each = 1e6 * times["trace"] / nodes
    ratio = times["trace"] / times["floor"]
    return [name, f"{nodes:,}", f"{times['floor']:.3f}", f"{times['trace']:.3f}", f"{each:.1f}", f"{ratio:.2f}", other]


def table() -> str:
    rows = [row("chain of 300", programs.chain(300), None, 15, peer=True)]
    model, loss = programs.gpt2()
    rows.append(row("GPT-2, 12 layers", loss, model, 15, peer=True))
    model, _, penalty = programs.gpt2_double_backward()
    rows.append(row("GPT-2, double backward", penalty, model, 15, peer=True))
    rows.append(row("chain of 100,000", programs.chain(100_000), None, 5, peer=False))
    rows.append(row("chain of 1,000,000", programs.chain(1_000_000), None, 3, peer=False))
    head = ["graph", "nodes", "floor, s", "`trace`, s", "µs a node", "`trace` / floor", "torchviz / `trace`"]
    return markdown(head, rows)
