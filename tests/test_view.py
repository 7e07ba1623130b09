"""Folding: what every view keeps, whatever the graph and the options."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradgraph
from gradgraph import AutogradGraph, InputError, View, fold
from gradgraph.graph import NODE_ATTRIBUTES
from tests.cases import CASES, deep_chain

BY = ["auto", "none", "module", "line", "repeat", "chain"]

_MODULES = st.sampled_from([None, "", "net", "net.0", "net.1", "net.2", "net.2.lin", "head", "a.b.c"])
_SOURCES = st.sampled_from([None, "train.py:1 in step", "train.py:2 in step", "/x/model.py:9 in forward", "?"])
_STATS = st.fixed_dictionaries(
    {
        "norm": st.one_of(st.none(), st.floats(0, 1e6)),
        "nan": st.integers(0, 3),
        "inf": st.integers(0, 3),
    }
)


@st.composite
def graphs(draw: st.DrawFn, most: int = 40) -> AutogradGraph:
    """DAGs with attributes at random, consistent only as far as every graph is."""
    graph = AutogradGraph()
    count = draw(st.integers(0, most))
    period = draw(st.integers(1, 6))  # so that there is something to find
    for key in range(count):
        order = draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
        leaf = draw(st.integers(0, 6)) == 0
        graph.add_node(key, **NODE_ATTRIBUTES)
        graph.nodes[key].update(
            op="AccumulateGrad" if leaf else "ABCDEF"[key % period],
            kind="leaf" if leaf else "op",
            name=f"w{key}" if leaf else None,
            order=0 if leaf else order,
            creator=draw(st.one_of(st.none(), st.integers(0, count + 2))),
            outputs=[{"shape": [draw(st.sampled_from([1, 1, 1, 2]))], "dtype": "float32", "device": "cpu"}],
            module=draw(_MODULES),
            module_call=draw(st.sampled_from([None, 1, 1, 2, 3])),
            source=draw(_SOURCES),
            saved_bytes=draw(st.integers(0, 100)),
            gradient=draw(st.one_of(st.none(), st.lists(st.one_of(st.none(), _STATS), max_size=2))),
            curvature=draw(st.one_of(st.none(), st.integers(-9, 9).map(float))),
        )
    for key in range(count - 1):
        if graph.nodes[key]["kind"] != "leaf":
            near = st.integers(key + 1, min(count - 1, key + 4))
            for slot, target in enumerate(draw(st.lists(st.one_of(near, st.integers(key + 1, count - 1)), max_size=3))):
                role = draw(st.sampled_from(["gradient", "gradient", "curvature"]))
                graph.add_edge(key, target, slot, output_nr=0, role=role)
    graph.graph.update(roots=[0] if count else [], orders=[0], recorded=None)
    return graph


def unrolled(times: int, body: Callable[[AutogradGraph, int, int], int]) -> AutogradGraph:
    """A graph made by hand: `body(graph, step, below)` adds nodes over `below` and returns the topmost."""
    graph = AutogradGraph()
    top = add(graph, "Start")
    for step in range(times):
        top = body(graph, step, top)
    graph.graph.update(roots=[top], orders=[0])
    return graph


def add(graph: AutogradGraph, op: str, *inputs: int, **attributes: Any) -> int:
    """Add a node that consumes `inputs`; its key."""
    key = len(graph)
    graph.add_node(key)
    graph.nodes[key].update(NODE_ATTRIBUTES)
    graph.nodes[key].update(op=op, outputs=[{"shape": [2], "dtype": "float32", "device": "cpu"}], **attributes)
    for slot, target in enumerate(inputs):
        graph.add_edge(key, target, slot, output_nr=0, role="gradient")
    return key


def check(graph: AutogradGraph, view: View) -> None:
    """What a view promises of any graph."""
    boxes: dict[int, dict[str, Any]] = {key: data for key, data in view.nodes(data=True)}  # noqa: C416 - a view of pairs
    hidden = view.graph["hidden"]
    members = [member for data in boxes.values() for member in data["members"]]
    assert len(members) == len(set(members)), "a node is in one box"
    assert set(members) <= set(graph)
    assert len(members) + hidden["nodes"] == len(graph) == view.graph["nodes"]
    assert list(boxes) == sorted(boxes)
    for key, data in boxes.items():
        nodes = [graph.nodes[member] for member in data["members"]]
        assert all(view.box_of(member) == key for member in data["members"])
        assert data["count"] == len(nodes) == sum(data["kinds"].values()) == sum(data["ops"].values())
        assert data["saved_bytes"] == sum(node["saved_bytes"] for node in nodes)
        orders = [node["order"] for node in nodes]
        assert data["orders"] == [min(orders), max(orders)]
        assert data["order"] == min(orders)
        if data["orders"][0] != data["orders"][1] and data["times"] == 1:
            assert _holds_a_climbing_repeat(graph, view, members=set(data["members"])), "orders mix in repeats alone"
        known = [node["curvature"] for node in nodes if node["curvature"] is not None]
        assert data["curvature"] == (pytest.approx(math.fsum(known)) if known else None)
        _check_gradients(graph, nodes, data["gradient_range"])
        assert data["fold"] is (None if len(nodes) == 1 else data["fold"])
        assert data["kind"] == (nodes[0]["kind"] if len(nodes) == 1 else "folded")
        if len(nodes) == 1:
            own = {name: value for name, value in nodes[0].items() if name not in ("order", "curvature")}
            assert {name: data[name] for name in own} == own
        made = Counter(
            view.box_of(node["creator"]) for node in nodes if _has_creator(graph, node) and node["creator"] in members
        )
        assert data["creators"] == dict(made)
        assert isinstance(data["label"], str)
        for outer, name in zip([None, *data["clusters"]], data["clusters"], strict=False):
            assert view.clusters[name]["parent"] == outer
    assert set(view.clusters) == {name for data in boxes.values() for name in data["clusters"]}
    _check_edges(graph, view)
    json.dumps(nx.node_link_data(view, edges="edges"))


def _has_creator(graph: AutogradGraph, node: dict[str, Any]) -> bool:
    return node["creator"] in graph and graph.nodes[node["creator"]]["order"] < node["order"]


def _check_gradients(graph: AutogradGraph, nodes: list[dict[str, Any]], found: dict[str, Any] | None) -> None:
    if all(node["gradient"] is None for _, node in graph.nodes(data=True)):
        assert found is None
        return
    assert found is not None
    entries = [[one for one in node["gradient"] or [] if one is not None] for node in nodes]
    norms = [one["norm"] for many in entries for one in many if one["norm"] is not None]
    assert (found["low"], found["high"]) == (min(norms, default=None), max(norms, default=None))
    assert found["nan"] == sum(one.get("nan", 0) for many in entries for one in many)
    assert found["inf"] == sum(one.get("inf", 0) for many in entries for one in many)
    assert found["none"] == sum(not many for many in entries)


def _check_edges(graph: AutogradGraph, view: View) -> None:
    between: Counter[tuple[int, int, str]] = Counter()
    inside: Counter[tuple[int, str]] = Counter()
    hidden = 0
    shown = {member for _, data in view.nodes(data=True) for member in data["members"]}
    for u, v, data in graph.edges(data=True):
        if u not in shown or v not in shown:
            hidden += 1
        elif (tail := view.box_of(u)) == (head := view.box_of(v)):
            inside[tail, data["role"]] += 1
        else:
            between[tail, head, data["role"]] += 1
    found: Counter[tuple[int, int, str]] = Counter()
    for tail, head, data in view.edges(data=True):
        found[tail, head, data["role"]] += data["count"]
        assert ("slot" in data) == ("output_nr" in data) == (data["count"] == 1)
    assert found == between
    assert {
        (key, role): count for key, data in view.nodes(data=True) for role, count in data["inner"].items()
    } == inside
    assert view.graph["hidden"]["edges"] == hidden
    assert view.graph["edges"] == graph.number_of_edges()


def as_data(view: View) -> Any:
    return json.loads(json.dumps(nx.node_link_data(view, edges="edges")))


def _holds_a_climbing_repeat(graph: AutogradGraph, view: View, *, members: set[int]) -> bool:
    """Whether a repeat through several orders lies within, as shows where every group is opened."""
    opened = graph.fold(view.graph["by"], depth=100)
    repeats = [box for _, box in opened.nodes(data=True) if box["times"] > 1 and box["orders"][0] != box["orders"][1]]
    return any(set(box["members"]) <= members for box in repeats)


@settings(max_examples=80, deadline=None)
@given(graphs(), st.sampled_from(BY), st.one_of(st.none(), st.integers(0, 4)), st.one_of(st.none(), st.integers(1, 12)))
def test_nothing_is_lost(graph: AutogradGraph, by: Any, depth: int | None, most: int | None) -> None:
    view = fold(graph, by, depth=depth, max_nodes=most)
    check(graph, view)
    assert view.graph["hidden"] == {"nodes": 0, "edges": 0}
    if most is not None and by != "none":
        lanes = {data["order"] for _, data in graph.nodes(data=True)}
        assert len(view) <= max(most, len(lanes))
    assert as_data(fold(graph, by, depth=depth, max_nodes=most)) == as_data(view)


@settings(max_examples=25, deadline=None)
@given(graphs(), st.data())
def test_nothing_is_lost_where_groups_are_expanded(graph: AutogradGraph, data: st.DataObject) -> None:
    closed = fold(graph, "module", depth=1)
    names = sorted({box["group"] for _, box in closed.nodes(data=True) if box.get("fold") == "module"})
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    view = fold(graph, "module", max_nodes=1, expand=chosen)
    check(graph, view)
    assert not {box.get("group") for _, box in view.nodes(data=True)} & set(chosen)


@settings(max_examples=25, deadline=None)
@given(graphs(), st.data())
def test_nothing_is_lost_in_focus_and_path(graph: AutogradGraph, data: st.DataObject) -> None:
    if len(graph) == 0:
        return
    key = data.draw(st.sampled_from(sorted(graph)))
    hops = data.draw(st.integers(0, 3))
    check(graph, gradgraph.focus(graph, key, hops))
    folded = fold(graph, "repeat", max_nodes=10)
    check(graph, gradgraph.focus(folded, folded.box_of(key), hops))
    below = sorted(nx.descendants(graph, key))
    if below:
        check(graph, gradgraph.path(graph, data.draw(st.sampled_from(below)), key))


@settings(max_examples=25, deadline=None)
@given(graphs(), st.sampled_from(BY))
def test_a_part_of_a_graph_is_a_graph(graph: AutogradGraph, by: Any) -> None:
    part = graph.subgraph(list(graph)[::2])
    view = fold(part, by, max_nodes=5)
    check(part.copy(), view)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("name", CASES)
def test_every_case_keeps_what_it_has(name: str, tmp_path: Path) -> None:
    case = deep_chain(300) if name == "deep_chain" else CASES[name]()
    graph = gradgraph.trace(case.outputs, case.params, lower=case.lower)
    read = gradgraph.read_json(gradgraph.write_json(graph, tmp_path / "graph.json"))
    for by in BY:
        for options in ({}, {"depth": 1}, {"max_nodes": 4}, {"depth": 2, "max_nodes": 9}):
            view = fold(graph, by, **options)  # type: ignore[arg-type]
            check(graph, view)
            assert as_data(view) == as_data(fold(read, by, **options)), "a file folds as the graph did"  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["auto", "none"])
def test_a_small_graph_stays_as_it_is(by: Any) -> None:
    graph = gradgraph.trace(CASES["wgan_gp"]().outputs)
    view = fold(graph, by)
    assert [data["members"] for _, data in view.nodes(data=True)] == [[key] for key in graph]
    assert list(view.edges()) == list(graph.edges())
    assert not view.clusters
    assert view.graph["roots"] == graph.roots


def test_parallel_edges_between_single_nodes_stay_apart() -> None:
    graph = gradgraph.trace(CASES["shared_leaf"]().outputs)
    view = fold(graph)
    assert [data["slot"] for *_, data in view.edges(data=True) if data["count"] == 1] == [
        slot for *_, slot in graph.edges(keys=True)
    ]


def test_a_view_shows_itself() -> None:
    graph = unrolled(200, lambda graph, _, top: add(graph, "B", add(graph, "A", top)))
    view = graph.fold()
    assert repr(view) == "<View by auto: 5 boxes for 401 nodes, 400 edges, order 0>" == str(view)
    assert repr(view.subgraph([0])).startswith("<View by auto: 1 boxes")
    assert repr(View()) == "<View by None: 0 boxes for 0 nodes, 0 edges, empty>"
    assert view.copy().box_of(7) == view.box_of(7)
    assert repr(graph.focus(5, 1)) == "<View by none: 3 boxes for 3 nodes, 400 edges, order 0, 398 nodes hidden>"
    assert len(graph.path(9, 3)) == 7
    with pytest.raises(
        InputError, match=r"no box of this view holds the node 401: expected .* \(401 of 401 are shown\)"
    ):
        view.box_of(401)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "layer"}, r"fold by='layer' is not known: expected one of auto, none, module, line, repeat, chain\."),
        ({"depth": -1}, r"fold expected depth to be a whole number from 0, got -1"),
        ({"depth": 1.5}, r"fold expected depth to be a whole number from 0, got 1\.5"),
        ({"max_nodes": 0}, r"fold expected max_nodes to be a whole number from 1, got 0\."),
        ({"max_nodes": True}, r"fold expected max_nodes to be a whole number from 1, got True\."),
    ],
)
def test_options_that_are_not_known(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fold(AutogradGraph(), **options)
