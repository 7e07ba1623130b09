"""AutogradGraph as a networkx graph, its live handle, and annotations."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import networkx as nx
import pytest
import torch

from gradgraph import AutogradGraph, InputError, ReleasedGraphError, annotate, trace
from tests.cases import maml, mlp


def traced() -> AutogradGraph:
    case = maml()
    return trace(case.outputs, case.params, lower=case.lower)


def same_data(one: AutogradGraph, two: AutogradGraph) -> bool:
    return (
        list(one.nodes(data=True)) == list(two.nodes(data=True))
        and sorted(one.edges(keys=True, data=True), key=str) == sorted(two.edges(keys=True, data=True), key=str)
        and one.graph == two.graph
    )


def test_networkx_algorithms_work() -> None:
    graph = traced()
    order = list(nx.topological_sort(graph))
    assert order[0] == graph.roots[0]
    assert nx.descendants(graph, graph.roots[0]) == set(graph) - set(graph.roots)
    assert nx.dag_longest_path_length(graph) > 10
    assert isinstance(graph.to_undirected(), nx.MultiGraph)


@pytest.mark.parametrize("how", ["copy", "copy.copy", "deepcopy", "pickle"])
def test_copies_hold_the_data_and_no_live_nodes(how: str) -> None:
    graph = traced()
    _ = graph.adj, graph.nodes, graph.edges, graph.degree  # networkx caches these views on the graph
    twin = {
        "copy": lambda: graph.copy(),
        "copy.copy": lambda: copy.copy(graph),
        "deepcopy": lambda: copy.deepcopy(graph),
        "pickle": lambda: pickle.loads(pickle.dumps(graph)),
    }[how]()
    assert isinstance(twin, AutogradGraph)
    assert same_data(graph, twin)
    assert not twin.is_live
    assert graph.is_live
    with pytest.raises(ReleasedGraphError, match=r"holds none: it was released, loaded from a file, copied or sliced"):
        _ = twin.live


def test_subgraphs_and_reversals() -> None:
    graph = traced()
    lower = graph.subgraph(graph.by_order()[0])
    assert isinstance(lower, AutogradGraph)
    assert {data["order"] for _, data in lower.nodes(data=True)} == {0}
    assert lower.roots == []
    assert "AutogradGraph" in repr(lower)
    for flipped in (graph.reverse(), graph.reverse(copy=False)):
        assert isinstance(flipped, AutogradGraph)
        assert set(flipped.edges()) == {(v, u) for u, v in graph.edges()}
        with pytest.raises(ReleasedGraphError):
            _ = flipped.live
    assert graph.edge_subgraph(list(graph.edges(keys=True))[:3]).number_of_edges() == 3


def test_release_keeps_the_data() -> None:
    graph = traced()
    before = copy.deepcopy(graph)
    with graph as entered:
        assert entered is graph
    assert not graph.is_live
    assert same_data(before, graph)
    graph.release()  # twice is once


def test_reprs_are_short_and_never_raise() -> None:
    graph = traced()
    assert repr(graph) == str(graph) == "<AutogradGraph: 43 nodes, 52 edges, orders 0 to 1, live>"
    assert repr(AutogradGraph()) == "<AutogradGraph: 0 nodes, 0 edges, empty>"
    bare = AutogradGraph()
    bare.add_edge(0, 1)
    assert repr(bare) == "<AutogradGraph: 2 nodes, 1 edges, order 0>"


def test_find_and_leaves() -> None:
    net = mlp()
    graph = trace(net(torch.ones(1, 3, dtype=torch.float64)).sum(), net)
    assert graph.leaves()[graph.find("0.weight")] == "0.weight"
    with pytest.raises(InputError, match=r"no node of this graph is called 'nope'; its names are '2.bias', '2.weight'"):
        graph.find("nope")


def test_annotate_by_key_and_by_name() -> None:
    @dataclass
    class Stats:
        norm: float

    graph = traced()
    annotate(graph, "gradient", {graph.find("0.bias"): [Stats(2.0).__dict__]})
    annotate(graph, "mine", {"0.weight": Stats(1.0), 0: None})
    assert graph.nodes[graph.find("0.weight")]["mine"] == {"norm": 1.0}
    assert graph.nodes[graph.find("0.bias")]["gradient"] == [{"norm": 2.0}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({999: 1}, "annotate got the node key 999, but the graph's keys are 0 to 42."),
        ({"nope": 1}, "no node of this graph is called 'nope'"),
        ({0: torch.ones(1)}, "expected a JSON value (None, bool, int, float, str, list, dict), got Tensor; convert it"),
        ({0: {1: 2}}, "dict keys must be strings for JSON, got 1."),
        ([1], "annotate expected a mapping from node key or name to value, got list"),
    ],
)
def test_annotate_refuses_and_writes_nothing(values: object, message: str) -> None:
    graph = traced()
    before = copy.deepcopy(graph)
    with pytest.raises(InputError) as caught:
        annotate(graph, "gradient", {1: 3.0, **values} if isinstance(values, dict) else values)
    assert message in str(caught.value)
    assert same_data(before, graph)
