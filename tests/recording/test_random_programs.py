"""Random programs: creators against torch's anomaly mode, additions of gradients against what nodes are handed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.checkpoint import checkpoint

import gradgraph

pytestmark = pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Using backward.. with create_graph")

Op = Callable[[random.Random, Tensor, Tensor], Tensor]


class TwoOutputs(torch.autograd.Function):
    """Several outputs, one of them without a gradient, and `None` for an argument that is no tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, factor: float) -> Any:
        ctx.save_for_backward(x, y)
        ctx.factor = factor
        index = x.argmax()
        ctx.mark_non_differentiable(index)
        ctx.set_materialize_grads(False)
        return x * y, x + factor * y, index

    @staticmethod
    def backward(ctx: Any, *gs: Any) -> Any:
        x, y = ctx.saved_tensors
        of_x = of_y = None
        if gs[0] is not None:
            of_x, of_y = gs[0] * y, gs[0] * x
        if gs[1] is not None:
            of_x = gs[1] if of_x is None else of_x + gs[1]
            of_y = gs[1] * ctx.factor if of_y is None else of_y + ctx.factor * gs[1]
        return of_x, of_y, None


class OnlyFirst(torch.autograd.Function):
    """No gradient for its second argument."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        result: Tensor = x.sin() * y
        return result

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved_tensors
        return g * x.cos() * y, None


class Dirty(torch.autograd.Function):
    """Works in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 2


class RunsAPass(torch.autograd.Function):
    """Its backward differentiates by a pass of its own, over nodes that the outer pass runs as well, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, create_graph: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.create_graph = create_graph
        return x.detach() ** 2

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            y = (x**2 + x).sum()
            (slope,) = torch.autograd.grad(y, x, create_graph=ctx.create_graph, retain_graph=True)
            if x.grad_fn is not None and x.grad_fn.next_functions:
                below = [GradientEdge(*one) for one in x.grad_fn.next_functions if one[0] is not None]
                torch.autograd.grad(y, below, create_graph=ctx.create_graph, retain_graph=True, allow_unused=True)
        return g * slope * x.cos(), None


def in_place(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    z = x.clone()
    rows = z[rng.randrange(2) :]
    rows.mul_(y[: len(rows)])
    z[:, 1].add_(z[0].clone())
    z[rng.randrange(3)] = y[0]
    return z


def sliced(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    parts = [*x.unbind(0), *y.T.split(1)]
    chosen = [rng.choice(parts).reshape(1, 3) for _ in range(3)]
    return torch.cat(chosen)


def chosen(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    index = torch.tensor([rng.randrange(3) for _ in range(2)])
    return x.index_put((index,), y[:2], accumulate=rng.random() < 0.5)[torch.tensor([0, 2, 2])]


def complex_numbers(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    z = torch.complex(x, y)
    return (z * z.conj() * torch.fft.fft(z)).real if rng.random() < 0.5 else (z.exp() * z).imag.tanh()


def several_outputs(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    match rng.randrange(6):
        case 0:
            result: Tensor = x.topk(3, 0).values * y
        case 1:
            values, _ = x.max(dim=1, keepdim=True)
            result = values * y
        case 2:
            result = x @ torch.linalg.svd(y + torch.diag(torch.arange(3.0))).S.diag()
        case 3:
            result = torch.linalg.qr(x + 3 * torch.eye(3)).R
        case 4:
            result = torch.stack(torch.meshgrid(x[0], y[1], indexing="ij")).sum(0)
        case _:
            result = torch.addmm(x, y, y.softmax(0)) + torch.logsumexp(x, 0)
    return result


def custom(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    match rng.randrange(5):
        case 0:
            first, second, _ = TwoOutputs.apply(x, y, 0.5)
            result: Any = rng.choice([first, second, first * second])
        case 1:
            result = OnlyFirst.apply(x, y)
        case 2:
            result = Dirty.apply(x.clone())
        case 3:
            result = RunsAPass.apply(x, True) * y
        case _:
            result = RunsAPass.apply(x.tanh(), False) * x
    return result  # type: ignore[no-any-return]


def recomputed(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    result: Any = checkpoint(lambda x, y: (x.tanh() * y).sin() * y, x, y, use_reentrant=False)
    return result  # type: ignore[no-any-return]


def looked_up(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    index = torch.tensor([rng.randrange(3) for _ in range(3)])
    return torch.nn.functional.embedding(index, x) * y


OPS: list[Op] = [
    lambda _, x, y: x * y,
    lambda _, x, y: x @ y,
    lambda _, x, y: x + y.T,
    lambda _, x, y: x - y.sum(0),
    lambda _, x, y: x.exp().clamp(max=3) * x,
    lambda _, x, y: torch.where(x > y, x, y * x),
    lambda _, x, y: x.detach() * y,
    lambda _, x, y: x.expand(2, 3, 3).sum(0) / (1 + y * y),
    lambda _, x, y: torch.stack([x, y, x]).mean(0),
    lambda _, x, y: torch.einsum("ij,jk,ik->ik", x, y, x),
    lambda _, x, y: torch.nn.functional.layer_norm(x, (3,), y[0], y[1]),
    lambda _, x, y: x.T.contiguous().view(9).cumsum(0).view(3, 3) * y.norm(),
    in_place,
    sliced,
    chosen,
    complex_numbers,
    several_outputs,
    custom,
    recomputed,
    looked_up,
]


def differentiated(rng: random.Random, pool: list[Tensor]) -> list[Tensor]:
    """One random pass over some of `pool`; what it gives."""
    roots = [one for one in rng.choices(pool[-6:], k=rng.choice([1, 1, 2, 3])) if one.requires_grad]
    leaves = [one for one in pool if one.is_leaf and one.requires_grad]
    with_graph = [one for one in pool if one.requires_grad]
    gradients = [rng.choice([torch.ones(3, 3), torch.ones(3, 3), rng.choice(pool)]) for _ in roots]
    if not roots:
        return []
    if rng.random() < 0.25:
        inputs = rng.choice([None, [rng.choice(leaves)]])
        torch.autograd.backward(roots, gradients, create_graph=True, inputs=inputs)
        return [one.grad.clone() for one in leaves if one.grad is not None]
    inputs = rng.choices(rng.choice([leaves, with_graph]), k=rng.choice([1, 2, 4]))
    create_graph = rng.random() < 0.9
    found = torch.autograd.grad(
        roots, inputs, gradients, create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    return [one for one in found if one is not None and one.requires_grad]


def program(seed: int) -> list[Tensor]:
    """A random program of some 20 operations and passes of up to the third order."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    pool = [torch.randn(3, 3, requires_grad=True) for _ in range(3)]
    for _ in range(rng.choice([1, 2, 2, 3])):
        for _ in range(rng.randrange(2, 9)):
            y = rng.choice(OPS)(rng, rng.choice(pool), rng.choice(pool[-5:]))
            pool.append(y if rng.random() < 0.5 else y.sin())
        pool += differentiated(rng, pool)[:3]
    return [one for one in pool if one.grad_fn is not None]


class Handed:
    """What each node of each pass was handed, and by whom: the additions in between are the engine's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.serves: dict[Any, Any] = {}  # an addition, and the node for whose gradient it was made
        self._run: Any = torch.autograd.graph._engine_run_backward
        for module in (torch.autograd.graph, torch.autograd):
            monkeypatch.setattr(module, "_engine_run_backward", self.observed)

    def observed(self, outputs: Any, gradients: Any, keep: Any, create_graph: bool, *args: Any, **options: Any) -> Any:
        given: dict[tuple[Any, int], list[Any]] = {}
        received: list[tuple[Any, int, Any]] = []
        handles = []
        task: list[int] = []

        def before(node: Any, gradients: Any) -> None:
            task.append(torch._C._current_graph_task_id())
            if task[-1] == task[0]:
                received.extend((node, nr, one.grad_fn) for nr, one in enumerate(gradients) if one is not None)

        def after(node: Any, found: Any) -> None:
            if torch._C._current_graph_task_id() == task[0]:
                for (child, nr), one in zip(node.next_functions, found, strict=True):
                    if child is not None and one is not None:
                        given.setdefault((child, nr), []).append(one.grad_fn)

        if create_graph:
            edges = [edge_of(one) for one in outputs]
            ends = [edge_of(one) for one in (args[0] if args else options.get("inputs")) or ()]
            for edge, gradient in zip(edges, gradients, strict=True):
                given.setdefault((edge.node, edge.output_nr), []).append(None if gradient is None else gradient.grad_fn)
            for node in nodes_behind(edge.node for edge in edges):
                handles.append(node.register_prehook(lambda gs, node=node: before(node, gs)))
                handles.append(node.register_hook(lambda found, _, node=node: after(node, found)))
        results = self._run(outputs, gradients, keep, create_graph, *args, **options)
        for handle in handles:
            handle.remove()
        if create_graph:
            if results:
                for edge, one in zip(ends, results, strict=True):
                    if one is not None:
                        received.append((edge.node, edge.output_nr, one.grad_fn))
            for node, nr, made in received:
                stack = [made]
                while stack:
                    one = stack.pop()
                    if one is not None and one not in given.get((node, nr), ()) and one.name() == "AddBackward0":
                        self.serves.setdefault(one, node)
                        stack += [child for child, _ in one.next_functions]
        return results


def edge_of(root: Tensor | GradientEdge) -> GradientEdge:
    """Where gradients of `root` go."""
    return root if isinstance(root, GradientEdge) else get_gradient_edge(root)


def nodes_behind(roots: Iterator[Any]) -> list[Any]:
    stack, seen = list(roots), set[Any]()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [child for child, _ in node.next_functions]
    return list(seen)


@pytest.mark.parametrize("source", [True, False], ids=["with lines", "without"])
def test_creators_of_random_programs(source: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # The last two add the gradients of roots, one of them with no node run.
    check_programs([*range(18), 78, 203], source, monkeypatch)


def check_programs(seeds: Sequence[int], source: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    created = added = 0
    for seed in seeds:
        plain = [(one.sum().item(), one.requires_grad) for one in program(seed)]
        with monkeypatch.context() as patch:
            handed = Handed(patch)
            with gradgraph.record(source=source) as recording, torch.autograd.set_detect_anomaly(True, check_nan=False):
                outputs = program(seed)
        assert repr([(one.sum().item(), one.requires_grad) for one in outputs]) == repr(plain), ("values", seed)
        graph = recording.trace(outputs)
        nodes: list[Any] = list(graph.live.nodes)
        key_of = {node: key for key, node in enumerate(nodes)}
        additions = {key_of[one]: key_of.get(node) for one, node in handed.serves.items() if one in key_of}
        for key, node in enumerate(nodes):
            data = graph.nodes[key]
            parent = None if data["kind"] == "leaf" else node.metadata.get("parent_")
            assert bool(data["accumulation"]) == (key in additions), (seed, key, data)
            if data["accumulation"]:
                assert data["creator"] == additions[key], (seed, key, data)
                added += 1
            else:
                assert data["creator"] == key_of.get(parent), (seed, key, data)
                created += parent is not None
    assert created > 150
    assert added > 20
