"""The walk: every node, edge, output and slot; what nodes are called; what is never touched."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradgraph import InputError, trace
from gradgraph.graph import NODE_ATTRIBUTES
from gradgraph.recorder import record
from gradgraph.recording.log import Log
from gradgraph.tracer import trace_in
from tests.cases import CASES, Case, deep_chain, maml, mlp, pinn, wgan_gp
from tests.test_opinfo import walk

# torch warns of beta layouts and of its own checkpoint defaults; its warnings are not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
def test_named_cases_match_an_independent_walk(build: Any) -> None:
    case: Case = build()
    graph = trace(case.outputs, case.params, lower=case.lower)
    nodes = graph.live.nodes
    seen, edges, empty = walk([edge.node for edge in graph.live.roots])
    assert set(nodes) == seen
    assert len(nodes) == len(seen)
    traced = {(nodes[u], nodes[v], slot, data["output_nr"]) for u, v, slot, data in graph.edges(keys=True, data=True)}
    assert traced == set(edges)
    assert graph.number_of_edges() == len(edges)
    assert sum(data["detached_slots"] for _, data in graph.nodes(data=True)) == empty
    assert nx.is_directed_acyclic_graph(graph)
    for key, data in graph.nodes(data=True):
        assert set(data) == set(NODE_ATTRIBUTES)
        assert (data["kind"] == "leaf") == (key in graph.live.leaves)


@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
def test_tracing_twice_gives_the_same_data(build: Any) -> None:
    first, second = (build() for _ in range(2))
    one = trace(first.outputs, first.params, lower=first.lower)
    two = trace(second.outputs, second.params, lower=second.lower)
    assert list(one.nodes(data=True)) == list(two.nodes(data=True))
    assert list(one.edges(keys=True, data=True)) == list(two.edges(keys=True, data=True))
    assert one.graph == two.graph


def test_a_node_with_two_names_is_one_node() -> None:
    w1, w2 = nn.Linear(3, 3), nn.Linear(3, 3)
    o1 = w1(torch.tensor([[1.0, 2.0, 3.0]]))
    o2 = w2(o1)
    graph = trace({"o2": o2, "o1": o1}, names={"o1": o1, "hidden": o1})
    assert o2.grad_fn is not None
    assert graph.live.nodes[graph.roots[1]] is o2.grad_fn.next_functions[1][0] is o1.grad_fn
    assert [data["name"] for _, data in graph.nodes(data=True) if data["kind"] == "op"] == [
        None,
        "o1 = hidden",
        None,
        None,
    ]
    # Names come from the caller's variables, without params.
    assert set(graph.leaves().values()) == {"w1.weight", "w1.bias", "w2.weight", "w2.bias"}


def test_a_chain_a_million_deep() -> None:
    case = deep_chain(1_000_000)
    graph = trace(case.outputs, case.params)
    assert len(graph) == 1_000_002
    assert graph.nodes[999_999]["op"] == "MulBackward0"
    assert sum(data["saved_bytes"] for _, data in graph.nodes(data=True)) == 4 * 1_000_001


def test_outputs_in_any_container() -> None:
    @dataclass
    class Out:
        loss: Tensor
        logits: Any

    x = torch.ones(2, requires_grad=True)
    y, z = x * 2, x * 3
    edge = torch.autograd.graph.get_gradient_edge(z)
    for outputs in (
        Out(y, [z]),
        {"a": y, "b": (z, None, 3)},
        [y, {"e": edge}],
        (y, torch.nn.utils.rnn.PackedSequence(z, torch.tensor([1, 1]))),
    ):
        graph = trace(outputs)
        assert [graph.nodes[key]["op"] for key in graph.roots] == ["MulBackward0"] * 2
    loop: list[Any] = [y]
    loop.append(loop)
    assert trace(loop).roots == [0]
    assert trace([y, y.detach()]).graph["skipped_outputs"] == 1
    chunks = x.repeat(2).split(2)
    assert trace(list(chunks)).graph["root_outputs"] == [0, 1]


def test_an_output_that_is_a_leaf() -> None:
    weight = torch.ones(2, requires_grad=True)
    graph = trace(weight)
    assert graph.leaves() == {0: "weight"}
    assert graph.number_of_edges() == 0


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            [],
            "outputs holds no tensor: expected a tensor, a GradientEdge or a nesting of them, got a list of 0 entries.",
        ),
        ({"a": []}, "outputs holds no tensor: expected a tensor, a GradientEdge or a nesting of them, got a dict of 1"),
        (None, "outputs holds no tensor: expected a tensor, a GradientEdge or a nesting of them, got a NoneType."),
        (
            torch.ones(2, 3),
            "outputs is a float32 tensor of shape [2, 3] that does not require grad, so there is no graph to trace.",
        ),
        ([torch.ones(1), torch.ones(2)], "outputs holds 2 tensors without an autograd graph, the first a float32"),
    ],
)
def test_outputs_without_a_graph_are_told_apart(outputs: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        trace(outputs)
    assert message in str(caught.value)


def test_params_that_are_not_in_the_graph() -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(InputError, match=r"none of the 2 tensors of params is a leaf of this graph \(missing: weight"):
        trace(x * 2, nn.Linear(2, 2))
    other = torch.ones(2, requires_grad=True)
    graph = trace(x * 2, {"x": x, "other": other})
    assert graph.graph["unreached"] == ["other"]
    with pytest.raises(InputError, match="names gives 'other' to a tensor that is not in this graph"):
        trace(x * 2, names={"other": other})


def test_leaf_names_fall_back_and_stay_unique() -> None:
    hidden = [torch.ones(1, requires_grad=True) for _ in range(2)]
    same = alias = torch.ones(1, requires_grad=True)
    total = sum([torch.ones(1, requires_grad=True), *hidden, same, alias])
    graph = trace(total)
    assert sorted(graph.leaves().values()) == ["hidden[0]", "hidden[1]", "leaf0", "leaf1"]
    leaf0 = torch.ones(1, requires_grad=True)
    graph = trace(sum([leaf0, torch.ones(1, requires_grad=True)]), {"leaf0": leaf0})
    assert sorted(graph.leaves().values()) == ["leaf0", "leaf1"]


def test_retained_tensors_take_the_callers_name() -> None:
    x = torch.ones(2, requires_grad=True)
    middle = x * 2
    middle.retain_grad()
    graph = trace(middle.sum())
    assert graph.nodes[graph.find("middle")]["op"] == "MulBackward0"


def test_kinds() -> None:
    x = torch.ones(2, 2, requires_grad=True)
    case = CASES["custom_function"]()
    kinds = {data["op"]: data["kind"] for _, data in trace(case.outputs).nodes(data=True)}
    assert kinds["CubeBackward"] == "custom"
    assert kinds["OnceOnlyBackward"] == "blocked"
    assert kinds["AccumulateGrad"] == "leaf"
    assert kinds["AddBackward0"] == "op"
    again = trace(checkpoint(torch.sin, x, use_reentrant=True).sum())
    assert {data["op"]: data["kind"] for _, data in again.nodes(data=True)}["CheckpointFunctionBackward"] == "opaque"
    compiled = torch.compile(torch.sin, backend="aot_eager")(x)
    assert trace(compiled).nodes[0]["kind"] == "opaque"
    log_probs = torch.randn(5, 1, 3).log_softmax(2).requires_grad_()
    loss = torch.nn.functional.ctc_loss(log_probs, torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2]))
    (grad,) = torch.autograd.grad(loss, log_probs, create_graph=True)
    assert [data["op"] for _, data in trace(grad).nodes(data=True) if data["kind"] == "blocked"] == ["NotImplemented"]


def test_outputs_tell_shape_dtype_device() -> None:
    graph = trace(CASES["meta"]().outputs)
    assert graph.nodes[1]["outputs"] == [{"shape": [8, 1_000_000], "dtype": "float32", "device": "meta"}]
    assert sum(data["saved_bytes"] for _, data in graph.nodes(data=True)) == 8 * 1_000_000 * 4
    unbound = torch.ones(3, 5, dtype=torch.complex64, requires_grad=True).unbind()
    assert trace(unbound[0]).nodes[0]["outputs"] == [{"shape": [5], "dtype": "complex64", "device": "cpu"}] * 3


def test_orders_follow_lower() -> None:
    case = pinn()
    graph = trace(case.outputs, case.params, lower=case.lower)
    assert graph.graph["orders"] == [0, 1, 2]
    by_name = {data["op"]: data["order"] for _, data in graph.nodes(data=True)}
    assert by_name["TanhBackward0"] == 0
    for u, v, data in graph.edges(data=True):
        assert graph.nodes[u]["order"] >= graph.nodes[v]["order"]
        assert (data["role"] == "curvature") <= (graph.nodes[u]["order"] > graph.nodes[v]["order"])


def test_lower_may_be_one_tensor_and_names_prove_what_they_can() -> None:
    x = torch.tensor(1.0, requires_grad=True)
    y = x.tanh()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    assert trace(g, lower=y).graph["orders"] == [0, 1]
    unaided = trace(g * 2)
    assert [(data["op"], data["order"]) for _, data in unaided.nodes(data=True)] == [
        ("MulBackward0", 1),
        ("TanhBackwardBackward0", 1),
        ("TanhBackward0", 0),
        ("AccumulateGrad", 0),
    ]
    assert {data["provenance"] for _, data in unaided.nodes(data=True)} == {"inferred"}


def test_curvature_edges_go_through_saved_tensors_only() -> None:
    case = wgan_gp()
    graph = trace(case.outputs, case.params, lower=case.lower)
    root = graph.roots[0]
    # loss + 10 * penalty: the sum reaches down to the loss, but nothing saved the loss.
    assert {(graph.nodes[v]["op"], data["role"]) for _, v, data in graph.out_edges(root, data=True)} == {
        ("SubBackward0", "gradient"),
        ("MulBackward0", "gradient"),
    }
    into = {
        graph.nodes[v]["name"] or graph.nodes[v]["op"] for _, v, d in graph.edges(data=True) if d["role"] == "curvature"
    }
    # The weights that Addmm saved, and LeakyReLU's input: that edge is there, though what it carries is zero.
    assert into == {"TBackward0", "AddmmBackward0"}
    powers = torch.tensor(1.0, requires_grad=True)
    f = powers**4
    (first,) = torch.autograd.grad(f, powers, create_graph=True)
    graph = trace(first, lower=[f])
    assert [data["role"] for _, _, data in graph.edges(data=True)].count("curvature") == 1


def test_recorded_passes_tell_curvature_where_the_loss_is_no_part_of_the_graph() -> None:
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    y = (x**3).sum()
    with record() as recording:
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        product = g * x
    recorded = recording.trace(product)
    named = trace_in({}, product, lower=[y], log=Log())
    for graph in (recorded, named):
        roles = {(graph.nodes[u]["op"], graph.nodes[v]["op"]): data["role"] for u, v, data in graph.edges(data=True)}
        assert roles["PowBackward0", "AccumulateGrad"] == "curvature"
        assert graph.graph["orders"] == [0, 1]
    # g * x is an ordinary operation: what it takes of x carries no curvature. Only a recording knows that.
    (root,) = recorded.roots
    assert {data["role"] for _, _, data in recorded.out_edges(root, data=True)} == {"gradient"}
    # The power was made before the recording began.
    unknown = {data["op"] for _, data in recorded.nodes(data=True) if data["provenance"] == "inferred"}
    assert unknown == set()


def test_modules_where_sure() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    graph = trace(net(torch.ones(1, 3)).sum(), net)
    found = [(data["op"], data["module"]) for _, data in graph.nodes(data=True)]
    assert found == [
        ("SumBackward0", None),
        ("AddmmBackward0", "2"),
        ("AccumulateGrad", "2"),
        ("TanhBackward0", None),
        ("TBackward0", "2"),
        ("AddmmBackward0", "0"),
        ("AccumulateGrad", "2"),
        ("AccumulateGrad", "0"),
        ("TBackward0", "0"),
        ("AccumulateGrad", "0"),
    ]
    tied = CASES["tied_weights"]()
    assert {data["module"] for _, data in trace(tied.outputs, tied.params).nodes(data=True)} == {None}


def test_works_after_backward_freed_the_graph() -> None:
    net = mlp()
    loss = net(torch.ones(2, 3, dtype=torch.float64)).pow(2).sum()
    before = trace(loss, net)
    shape = [(data["op"], data["name"]) for _, data in before.nodes(data=True)]
    before.release()
    loss.backward()
    after = trace(loss, net)
    assert [(data["op"], data["name"]) for _, data in after.nodes(data=True)] == shape
    states = {value["state"] for _, data in after.nodes(data=True) for value in data["saved"]}
    assert states == {"freed"}
    assert sum(data["saved_bytes"] for _, data in after.nodes(data=True)) == 0


def test_the_program_does_not_notice() -> None:
    net = mlp()
    x = torch.ones(2, 3, dtype=torch.float64)
    for p in net.parameters():
        p.grad = torch.full_like(p, 7.0)
    grads = [p.grad for p in net.parameters()]
    calls: list[str] = []
    hidden = net[0](x)
    hidden.register_hook(lambda g: calls.append("hook"))

    def noted(name: str) -> Callable[[Tensor], Tensor]:
        def hook(tensor: Tensor) -> Tensor:
            calls.append(name)
            return tensor

        return hook

    with torch.autograd.graph.saved_tensors_hooks(noted("pack"), noted("unpack")):
        loss = net[1:](hidden).pow(2).sum() + checkpoint(net, x, use_reentrant=False).sum()
    expected = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    calls.clear()
    state, enabled, versions = torch.get_rng_state(), gc.isenabled(), [p._version for p in net.parameters()]
    graph = trace(loss, net)
    assert calls == []
    assert torch.equal(torch.get_rng_state(), state)
    assert gc.isenabled() == enabled
    for p, grad in zip(net.parameters(), grads, strict=True):
        assert p.grad is grad
        assert grad is not None
        assert bool((grad == 7).all())
        assert p.requires_grad
    assert [p._version for p in net.parameters()] == versions
    again = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert len(graph) == 18


def test_release_frees_every_activation() -> None:
    x = torch.ones(1000, requires_grad=True)
    y = x.exp()
    activation = weakref.ref(y)
    graph = trace((y * y).sum())
    del y
    assert activation() is not None
    graph.release()
    assert activation() is None  # at once, without the garbage collector
    assert not graph.is_live
    assert len(graph) == 4


def test_a_graph_does_not_outlive_its_last_name() -> None:
    x = torch.ones(1000, requires_grad=True)
    y = x.exp()
    activation = weakref.ref(y)
    graph = trace((y * y).sum())
    del y, graph
    gc.collect()
    assert activation() is None


def test_gc_is_back_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(walk: object) -> None:
        assert not gc.isenabled()
        raise RuntimeError("during the pause")

    x = torch.ones(2, requires_grad=True)
    monkeypatch.setattr("gradgraph.tracer._WORTH_A_PAUSE", 0)
    monkeypatch.setattr("gradgraph.tracer.lay_fuses", broken)
    with pytest.raises(RuntimeError, match="during the pause"):
        trace(x * 2)
    assert gc.isenabled()
    monkeypatch.undo()
    gc.disable()
    try:
        trace(x * 2)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_tracing_from_several_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    cases = [maml() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        graphs = list(pool.map(lambda case: trace(case.outputs, case.params, lower=case.lower), cases))
    assert {len(graph) for graph in graphs} == {43}
    assert gc.isenabled()


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "mul", "sin", "split", "detach", "exp"]), st.integers(0, 30), st.integers(0, 30)),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(OPERATIONS, st.booleans())
def test_random_programs_match_the_walk(program: list[tuple[str, int, int]], freed: bool) -> None:
    pool = [torch.full((2,), 0.5, requires_grad=True) for _ in range(2)]
    for name, i, j in program:
        a, b = pool[i % len(pool)], pool[j % len(pool)]
        if name in ("add", "mul"):
            pool.append(getattr(a, name)(b))
        elif name == "split":
            pool.append(torch.cat(a.split(1)))
        else:
            pool.append(getattr(a, name)())
    output = torch.stack(pool).sum()
    if freed:
        output.backward()
    graph = trace(output)
    nodes = graph.live.nodes
    seen, edges, empty = walk([output.grad_fn])
    assert set(nodes) == seen
    assert {(nodes[u], nodes[v], slot, d["output_nr"]) for u, v, slot, d in graph.edges(keys=True, data=True)} == set(
        edges
    )
    assert sum(data["detached_slots"] for _, data in graph.nodes(data=True)) == empty
    assert nx.is_directed_acyclic_graph(graph)
    assert sorted(graph) == list(range(len(graph)))
