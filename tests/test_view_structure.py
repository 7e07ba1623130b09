"""What folding recognises: modules, lines, repeats, mirrors, chains; and what users say to find their way in it."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradgraph
from gradgraph import AutogradGraph, InputError, View, fold
from gradgraph.view.tandem import Run, runs
from tests.benchmarks.programs import gpt2_double_backward
from tests.test_view import add, check, unrolled


def boxes(view: View) -> list[tuple[str, int, list[int]]]:
    return [(data["label"], data["times"], data["orders"]) for _, data in view.nodes(data=True)]


def module(graph: AutogradGraph, name: str, *ops: str, below: int, call: int = 1) -> int:
    """A chain of operations in one call of a module, and its parameter."""
    weights = [key for key, data in graph.nodes(data=True) if data["name"] == f"{name}.weight"]
    weight = weights[0] if weights else add(graph, "AccumulateGrad", kind="leaf", name=f"{name}.weight", module=name)
    for place, op in enumerate(ops):
        inputs = (below, weight) if place == 0 else (below,)
        below = add(graph, op, *inputs, module=name, module_call=call)
    return below


def blocks(count: int) -> AutogradGraph:
    """Residual blocks of two modules each, `net.h.0` to the last, between an embedding and a head."""

    def block(graph: AutogradGraph, step: int, top: int) -> int:
        below = module(graph, f"net.h.{step}.attn", "A", "B", "C", below=top)
        below = module(graph, f"net.h.{step}.mlp", "D", "E", below=below)
        return add(graph, "Add", top, below, module=f"net.h.{step}", module_call=1)

    graph = unrolled(count, block)
    top = module(graph, "net.head", "M", below=graph.graph["roots"][0])
    graph.graph["roots"] = [add(graph, "Loss", top, source="/home/me/train.py:31 in step")]
    return graph


def mirrored(graph: AutogradGraph) -> AutogradGraph:
    """The graph with its backward: a node for each, and an accumulation wherever several gradients meet."""
    made: dict[int, int] = {}
    for key in [key for key, data in graph.nodes(data=True) if data["kind"] != "leaf"][::-1]:
        creator: dict[str, Any] = {"creator": key, "order": 1, "source": "/home/me/train.py:32 in step", "pass": 1}
        consumers = sorted(set(graph.predecessors(key)) & set(made))
        arriving = [made[consumer] for consumer in consumers]
        if len(arriving) > 1:
            arriving = [add(graph, "AddBackward", *arriving, **creator)]
        made[key] = add(graph, f"{graph.nodes[key]['op']}Backward", *arriving, **creator)
        graph.add_edge(made[key], key, 9, output_nr=0, role="curvature")
    last = add(graph, "Norm", *made.values(), order=1, source="/home/me/train.py:33 in step")
    graph.graph.update(roots=[last], orders=[0, 1])
    return graph


def test_equal_modules_become_one() -> None:
    graph = blocks(12)
    view = fold(graph, max_nodes=20)
    check(graph, view)
    assert view.clusters["net.h.0 … h.11"] == {"label": "net.h.0 … h.11 ×12", "parent": "net", "times": 12}
    by_label = {data["label"]: data for _, data in view.nodes(data=True)}
    assert by_label["net.h.*.attn.weight"]["times"] == 12
    assert by_label["Add"]["clusters"] == ["net", "net.h.0 … h.11"]
    closed = fold(graph, max_nodes=6)
    (repeat,) = [data for _, data in closed.nodes(data=True) if data["times"] > 1]
    assert (repeat["label"], repeat["fold"], repeat["count"]) == ("net.h.0 … h.11", "repeat", 12 * 8)
    assert repeat["group"] == "net.h.0"


def test_a_backward_mirrors_what_it_differentiates() -> None:
    graph = mirrored(blocks(12))
    view = fold(graph, max_nodes=12)
    check(graph, view)
    repeats = {(data["label"], data["order"]): key for key, data in view.nodes(data=True) if data["fold"] == "repeat"}
    assert set(repeats) == {("net.h.0 … h.11", 0), ("net.h.0 … h.11", 1)}
    above = view.nodes[repeats["net.h.0 … h.11", 1]]
    assert above["creators"] == {repeats["net.h.0 … h.11", 0]: above["count"]}
    # The last block's result is used once, the others' twice: an accumulation less does not part the twelve.
    opened = fold(graph, max_nodes=60)
    counts = [(data["label"], data["count"]) for _, data in opened.nodes(data=True) if data["order"] == 1]
    assert ("AddBackward", 11) in counts
    assert ("EBackward", 12) in counts
    # Its line is the line of the pass; it belongs to the line that it differentiates.
    lines = fold(graph, "line")
    assert {data["label"] for _, data in lines.nodes(data=True) if data["fold"] == "line"} == set()
    assert all(data["order"] == 0 or data["label"] != "train.py:32 in step" for _, data in lines.nodes(data=True))


def test_calls_of_one_module_become_one() -> None:
    graph = unrolled(9, lambda graph, step, top: module(graph, "cell", "A", "B", "C", below=top, call=step + 1))
    view = fold(graph, max_nodes=5)
    check(graph, view)
    assert ("A", 9, [0, 0]) in boxes(view)
    assert view.clusters["cell (calls 1 to 9)"]["times"] == 9
    (folded,) = [data for _, data in fold(graph, depth=1).nodes(data=True) if data["fold"]]
    assert (folded["label"], folded["count"]) == ("cell", 28)


def test_a_repeat_may_have_several_modules() -> None:
    def body(graph: AutogradGraph, step: int, top: int) -> int:
        return module(graph, str(2 * step + 1), "T", "U", below=module(graph, str(2 * step), "A", "B", below=top))

    graph = unrolled(10, body)
    view = fold(graph, max_nodes=4)
    check(graph, view)
    assert {data["label"]: data["times"] for _, data in view.nodes(data=True)} == {
        "Start": 1,
        "0 … 18": 10,
        "1 … 19": 10,
    }
    assert view.clusters == {"0 … 19": {"label": "0 … 19 ×10", "parent": None, "times": 10}}


def test_modules_of_different_names_stay_apart() -> None:
    def body(graph: AutogradGraph, step: int, top: int) -> int:
        return module(graph, ("query", "key", "value")[step], "A", "B", "C", "D", below=top)

    assert {"query", "key", "value"} <= {label for label, _, _ in boxes(fold(unrolled(3, body), max_nodes=5))}


def test_loops_are_found_without_any_record() -> None:
    w = torch.tensor([0.5, 0.3], requires_grad=True)
    y: Tensor = torch.ones(2)
    for _ in range(300):
        y = torch.tanh(y * w).sin()
    graph = gradgraph.trace(y.sum())
    view = fold(graph)
    check(graph, view)
    assert [label for label, times, _ in boxes(view) if times == 299] == [
        "SinBackward0",
        "TanhBackward0",
        "MulBackward0",
    ]
    assert len(view) == 8
    (loop,) = view.clusters.values()
    assert loop == {"label": "3 ops: MulBackward0 … SinBackward0 ×299", "parent": None, "times": 299}


def test_loops_within_loops() -> None:
    def inner(graph: AutogradGraph, _: int, top: int) -> int:
        for _ in range(7):
            top = add(graph, "B", add(graph, "A", top))
        return add(graph, "C", top)

    graph = unrolled(30, inner)
    view = fold(graph, "repeat")
    check(graph, view)
    assert {times for _, times, _ in boxes(view)} >= {29 * 6}
    inside = [about for about in view.clusters.values() if about["times"] == 6]
    parents = [view.clusters[about["parent"]]["times"] for about in inside if about["parent"]]
    assert parents in ([29], [30])


def test_what_is_wired_otherwise_is_not_repeated() -> None:
    def skipping(graph: AutogradGraph, step: int, top: int) -> int:
        return add(graph, "A", top, max(0, top - (3 if step % 5 else 4)))

    graph = unrolled(40, skipping)
    view = fold(graph, "repeat")
    check(graph, view)
    assert all(times in (1, 8, 7) for _, times, _ in boxes(view))


def test_parameters_of_equal_steps_correspond() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(60)))
    graph = gradgraph.trace(net(torch.ones(2, 4)).sum(), net)
    graph = gradgraph.AutogradGraph(graph)
    for _, data in graph.nodes(data=True):
        data["module"] = None
    view = fold(graph)
    check(graph, view)
    times = {data["label"]: data["times"] for _, data in view.nodes(data=True)}
    assert times["*.0.weight"] == times["*.0.bias"] == 59


def test_inner_steps_climb_the_orders() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(4, 3)
    with gradgraph.record():
        fast: dict[str, Tensor] = dict(net.named_parameters())
        for _ in range(10):
            inner = torch.func.functional_call(net, fast, x).pow(2).mean()
            grads = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
            fast = {name: p - 0.1 * g for (name, p), g in zip(fast.items(), grads, strict=True)}
        graph = gradgraph.trace((torch.func.functional_call(net, fast, x) - 1).pow(2).mean(), net)
    assert graph.graph["orders"] == list(range(11))
    view = fold(graph)
    check(graph, view)
    assert {data["order"] for _, data in view.nodes(data=True)} == {0, 1, 10}
    assert ("AddmmBackward0", 11, [0, 10]) in boxes(view)
    assert ("SubBackward0", 10, [1, 10]) in boxes(view)
    assert ("TanhBackwardBackward0", 10, [1, 10]) in boxes(view)


def test_orders_of_a_derivative_are_not_steps() -> None:
    x = torch.linspace(0, 1, 5, dtype=torch.float64).requires_grad_()
    with gradgraph.record():
        u = torch.tanh(x * 2)
        outputs = [u]
        for _ in range(3):
            outputs += torch.autograd.grad(outputs[-1].sum(), x, create_graph=True)
        graph = gradgraph.trace(outputs)
    view = fold(graph, "auto", max_nodes=len(graph) - 1)
    check(graph, view)
    assert all(low == high for _, _, (low, high) in boxes(view))


@pytest.mark.filterwarnings("ignore")
def test_gpt2_differentiated_twice() -> None:
    pytest.importorskip("transformers")
    with gradgraph.record():
        model, _, penalty = gpt2_double_backward()
        graph = gradgraph.trace(penalty, model)
    graph.release()
    began = time.perf_counter()
    view = fold(graph)
    assert time.perf_counter() - began < 3
    check(graph, view)
    assert 50 < len(view) <= 150
    assert view.clusters["transformer.h.0 … h.11"]["label"] == "transformer.h.0 … h.11 ×12"
    assert view.clusters["transformer.h.0 … h.11 (order 1)"]["times"] == 12
    blocks = {
        data["order"]: data
        for _, data in fold(graph, depth=3).nodes(data=True)
        if data["label"] == "transformer.h.0 … h.11"
    }
    assert set(blocks) == {0, 1}
    assert blocks[0]["times"] == blocks[1]["times"] == 12
    assert list(blocks[1]["creators"].values()) == [blocks[1]["count"]]


def test_lines() -> None:
    def body(graph: AutogradGraph, _: int, top: int) -> int:
        top = add(graph, "A", top, source="/home/me/train.py:30 in step")
        top = add(graph, "B", top, source="/home/me/train.py:31 in step")
        return add(graph, "C", top, source="/home/me/model.py:7 in forward")

    graph = unrolled(60, body)
    view = fold(graph, "line")
    check(graph, view)
    labels = [label for label, _, _ in boxes(view)]
    assert labels == ["Start", "train.py:30 in step", "train.py:31 in step", "model.py:7 in forward"]
    assert [data["label"] for data in view.clusters.values()] == ["train.py in step"]
    assert [label for label, _, _ in boxes(fold(graph, "line", depth=1))] == ["Start", "train.py", "model.py"]
    repeated = fold(graph)
    check(graph, repeated)
    assert {(label, times) for label, times, _ in boxes(repeated)} >= {("A", 60), ("C", 60)}


def test_chains() -> None:
    graph = unrolled(0, lambda graph, step, top: top)
    weight = add(graph, "AccumulateGrad", kind="leaf", name="w")
    left = add(graph, "C", add(graph, "B", add(graph, "A", 0, weight)))
    right = add(graph, "E", add(graph, "D", 0))
    graph.graph["roots"] = [add(graph, "Join", left, right)]
    view = fold(graph, "chain")
    check(graph, view)
    assert [(data["label"], data["count"], data["fold"]) for _, data in view.nodes(data=True)] == [
        ("Start", 1, None),
        ("3 ops: A … C", 4, "chain"),
        ("2 ops: D … E", 2, "chain"),
        ("Join", 1, None),
    ]


def test_what_nothing_groups_becomes_stretches() -> None:
    graph = AutogradGraph()
    for key in range(2000):
        add(graph, f"Op{key % 97}{key % 89}", *{max(0, key - 1), key // 2, key * 7919 % key} - {key} if key else ())
    graph.graph["roots"] = [1999]
    view = fold(graph)
    check(graph, view)
    assert 140 <= len(view) <= 150
    assert fold(graph, max_nodes=1).nodes[0]["label"].startswith("2000 ops: ")


def test_depth() -> None:
    graph = blocks(4)
    for depth, labels in [
        (0, {"27 ops: Start … Loss"}),
        (1, {"net", "Start", "Loss"}),
        (2, {"net.h", "net.head", "Start", "Loss"}),
    ]:
        view = fold(graph, "module", depth=depth)
        check(graph, view)
        assert {label for label, _, _ in boxes(view)} == labels
    assert len(fold(graph, "module", depth=9)) == len(graph)
    assert len(fold(graph, "module", depth=9, max_nodes=6)) <= 6


@pytest.mark.parametrize("name", ["net.h.2", "h.2", "net.h.0 … h.11", "net.h.0 … h.11 ×12"])
def test_a_part_opens_its_repeat(name: str) -> None:
    graph = blocks(12)
    view = fold(graph, max_nodes=4, expand=(name,))
    check(graph, view)
    assert {"net.h.*.attn", "net.h.*.mlp", "Add"} <= {label for label, _, _ in boxes(view)}
    opened = fold(graph, max_nodes=4, expand="attn")
    assert {"A", "B", "C", "net.h.*.mlp"} <= {label for label, _, _ in boxes(opened)}


def test_a_name_that_is_not_there() -> None:
    graph = blocks(12)
    with pytest.raises(InputError, match=r"expand='net\.hh' names no group of this graph; near it are 'net\.h'"):
        fold(graph, expand=["net.hh"])
    with pytest.raises(InputError, match=r"expand='atn' names no group .* near it are 'net\.h\.\*\.attn'"):
        fold(graph, expand="atn")
    with pytest.raises(InputError, match=r"expand expected names of groups, got 3; pass for example"):
        fold(graph, expand=[3])  # type: ignore[list-item]
    small = unrolled(2, lambda graph, _, top: add(graph, "A", top))
    with pytest.raises(InputError, match=r"expand='h' names no group of this graph; it has none by that rule"):
        fold(small, expand=["h"])


def test_focus_tells_what_it_hides() -> None:
    graph = blocks(12)
    key = next(key for key, data in graph.nodes(data=True) if data["op"] == "Add" and data["module"] == "net.h.3")
    view = gradgraph.focus(graph, key, hops=1)
    check(graph, view)
    (centre,) = view.graph["focus"]
    assert view.nodes[centre]["members"] == [key]
    assert (view.nodes[centre]["hidden_in"], view.nodes[centre]["hidden_out"]) == (0, 0)
    assert sum(data["hidden_in"] + data["hidden_out"] for _, data in view.nodes(data=True)) > 0
    whole = gradgraph.focus(graph, "net.h.3", hops=0)
    assert len(whole) == 8
    assert len(whole.graph["focus"]) == 8
    folded = fold(graph, max_nodes=6)
    part = gradgraph.focus(folded, "net.h.0 … h.11", hops=1)
    check(graph, part)
    assert set(part) < set(folded)


def test_focus_does_not_lead_through_a_shared_weight() -> None:
    graph = unrolled(50, lambda graph, step, top: module(graph, "cell", "A", "B", below=top, call=step + 1))
    assert len(gradgraph.focus(graph, 30, hops=3)) < 10
    assert len(gradgraph.focus(graph, "cell.weight", hops=1)) == 51


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (999, r"focus got the key 999, and the graph has no such node; it has the keys 0 to 9\."),
        ("Add", r"focus='Add' could be 3 nodes; pass the key of one of them: "),
        ("hed", r"focus='hed' is nothing in this graph; near it are 'net\.head"),
        (1.5, r"focus expected a node's key or name, got 1\.5"),
    ],
)
def test_a_node_that_is_not_there(node: Any, message: str) -> None:
    graph = blocks(3)
    message = message.replace("9\\.", f"{len(graph) - 1}\\.") if node == 999 else message
    with pytest.raises(InputError, match=message):
        gradgraph.focus(graph, node)
    with pytest.raises(InputError, match=r"focus expected hops to be a whole number from 0, got -1"):
        gradgraph.focus(graph, 0, hops=-1)


def test_path_leads_either_way() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    a, b = x.exp(), x.sin()
    graph = gradgraph.trace(((a * b).log(), a.cos()), names={"left": a, "right": b})
    view = gradgraph.path(graph, "x", "LogBackward0")
    check(graph, view)
    assert [label for label, _, _ in boxes(view)] == ["LogBackward0", "MulBackward0", "left", "right", "x"]
    assert view.graph["path"] == [[0], [4]]
    assert view.nodes[2]["hidden_in"] == 1
    assert boxes(gradgraph.path(graph, "LogBackward0", "x")) == boxes(view)
    with pytest.raises(InputError, match=r"no way leads from 'left' to 'right' .*; both reach x \(node \d+\)\."):
        gradgraph.path(graph, "left", "right")
    both = gradgraph.trace(x.exp() * torch.ones(2, requires_grad=True).sin().sum())
    with pytest.raises(InputError, match=r"nothing in common; both are reached from MulBackward0 \(node 0\)\."):
        gradgraph.path(both, "x", "SumBackward0")
    first = add(other := AutogradGraph(), "A")
    with pytest.raises(InputError, match=r"they reach nothing in common, and nothing reaches both\."):
        gradgraph.path(other, first, add(other, "B"))


def test_recurring_stretches() -> None:
    def found(text: str) -> list[Run]:
        names, scale = [ord(letter) for letter in text], 1
        while scale <= len(names):
            now, names = runs(scale, names)
            if now:
                return now
            scale *= 2
        return []

    assert found("xabcabcabcy") == [Run(1, 3, 3)]
    assert found("abab") == [Run(0, 2, 2)]
    assert found("abcdefgabcdefg") == [Run(0, 7, 2)]
    assert found("aaabbb") == [Run(0, 1, 3), Run(3, 1, 3)]
    assert found("abcdefg") == []
    assert found("") == []
    assert found("zabcdeabcdeab") == [Run(1, 5, 2, 2)]


def test_folding_is_linear() -> None:
    def seconds(steps: int) -> float:
        def body(graph: AutogradGraph, _: int, top: int) -> int:
            for op in "ABCDE":
                top = add(graph, op, top)
            return top

        graph = unrolled(steps, body)
        gc.collect()
        began = time.process_time()
        assert len(fold(graph)) <= 150
        return time.process_time() - began

    small, large = seconds(2_000), seconds(16_000)
    assert large < 3 * 8 * small + 0.5


def test_a_stretch_opens_by_its_label() -> None:
    graph = AutogradGraph()
    for key in range(400):
        add(graph, f"Op{key % 97}{key % 89}", *{max(0, key - 1), key // 2, key * 7919 % key} - {key} if key else ())
    graph.graph["roots"] = [399]
    view = fold(graph, max_nodes=20)
    (label, count), *_ = [(data["label"], data["count"]) for _, data in view.nodes(data=True) if data["count"] > 5]
    opened = fold(graph, max_nodes=20, expand=label)
    check(graph, opened)
    assert len(opened) == len(view) - 1 + count


def test_gradients_that_meet_in_a_shared_weight_are_one_repeat() -> None:
    torch.manual_seed(0)
    cell = nn.RNNCell(2, 3)
    with gradgraph.record():
        h = torch.zeros(1, 3)
        for _ in range(60):
            h = cell(torch.ones(1, 2), h)
        grads = torch.autograd.grad(h.sum(), list(cell.parameters()), create_graph=True)
        graph = gradgraph.trace(torch.stack([(grad**2).sum() for grad in grads]).sum(), cell)
    view = fold(graph)
    check(graph, view)
    met = [data["times"] for _, data in view.nodes(data=True) if data["label"] == "AddBackward0" and data["times"] > 1]
    assert met.count(59) == 5  # one for each parameter, and the sum of the two products in the cell
    assert any(about["label"].endswith("×59") for about in view.clusters.values())
