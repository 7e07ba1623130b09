"""JSON and GraphML: exact, strict, deterministic, and polite to damaged and hostile files."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradgraph import AutogradGraph, InputError, ReadError, annotate, read_json, trace, write_graphml, write_json
from gradgraph.readwrite import from_dict, to_dict
from tests.cases import CASES, maml
from tests.test_graph import same_data

HOSTILE = '</script><script>alert(1)</script> & "quotes" \'\\ \u2028 \x00 é 漢'


def traced() -> AutogradGraph:
    case = maml()
    return trace(case.outputs, case.params, lower=case.lower)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("build", [build for name, build in CASES.items() if name != "deep_chain"])
def test_round_trip_is_exact(build: Any, tmp_path: Path) -> None:
    case = build()
    graph = trace(case.outputs, case.params, lower=case.lower)
    write_json(graph, tmp_path / "g.json")
    back = read_json(tmp_path / "g.json")
    assert same_data(graph, back)
    assert not back.is_live
    write_json(back, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "g.json").read_bytes()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text().filter("$float".__ne__), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), JSON_VALUES)
def test_any_name_and_annotation_survives(tmp_path: Path, name: str, value: Any) -> None:
    x = torch.ones(1, requires_grad=True)
    graph = trace(x * 2, {name: x})
    annotate(graph, "mine", {1: value})
    write_json(graph, tmp_path / "g.json")
    back = read_json(tmp_path / "g.json")
    assert same_data(graph, back)


def test_reserved_names_are_refused_not_lost(tmp_path: Path) -> None:
    graph = traced()
    with pytest.raises(InputError, match="annotate cannot use the attribute 'id': node-link JSON needs it"):
        annotate(graph, "id", {1: 2})
    graph.nodes[1]["id"] = "behind annotate's back"
    with pytest.raises(InputError, match="an attribute is called 'id', which node-link JSON needs for itself"):
        write_json(graph, tmp_path / "g.json")


def test_the_file_is_safe_inside_a_page_and_strict(tmp_path: Path) -> None:
    x = torch.ones(1, requires_grad=True)
    graph = trace(x * 2, {HOSTILE: x})
    annotate(graph, "gradient", {1: [{"norm": math.nan, "max_abs": -math.inf}]})
    text = write_json(graph, tmp_path / "g.json").read_text()
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text, parse_constant=pytest.fail)["nodes"][1]["gradient"] == [
        {"norm": {"$float": "nan"}, "max_abs": {"$float": "-inf"}}
    ]
    back = read_json(tmp_path / "g.json").nodes[1]
    assert back["name"] == HOSTILE
    assert math.isnan(back["gradient"][0]["norm"])
    assert back["gradient"][0]["max_abs"] == -math.inf


def test_networkx_reads_it_too(tmp_path: Path) -> None:
    graph = traced()
    data = json.loads(write_json(graph, tmp_path / "g.json").read_text())
    theirs: Any = nx.node_link_graph(data, edges="edges")
    assert set(theirs.edges(keys=True)) == set(graph.edges(keys=True))
    assert theirs.nodes[3]["op"] == graph.nodes[3]["op"]


def test_graphml_of_names_that_xml_forbids_opens(tmp_path: Path) -> None:
    names = ["nul\0", "escape\x1b", "\ud800lone", "\uffff", "</graphml>", "new\nline\t", "🦊"]
    leaves = {name: torch.ones(1, requires_grad=True) for name in names}
    graph = trace(torch.stack(list(leaves.values())).sum(), leaves)
    theirs = nx.read_graphml(write_graphml(graph, tmp_path / "g.graphml"), node_type=int, force_multigraph=True)
    written = {data["name"] for _, data in theirs.nodes(data=True) if "name" in data}
    assert written == {"nul�", "escape�", "�lone", "�", "</graphml>", "new\nline\t", "🦊"}


def test_graphml_opens_in_networkx(tmp_path: Path) -> None:
    x = torch.ones(2, requires_grad=True)
    graph = trace((x * x).sum(), {"</x>&": x})
    theirs = nx.read_graphml(write_graphml(graph, tmp_path / "g.graphml"), node_type=int, force_multigraph=True)
    assert set(theirs.edges()) == set(graph.edges())
    assert theirs.number_of_edges() == graph.number_of_edges() == 3
    assert theirs.nodes[2]["name"] == "</x>&"
    assert theirs.nodes[1]["op"] == "MulBackward0"
    assert json.loads(theirs.nodes[1]["outputs"]) == graph.nodes[1]["outputs"]


def valid() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(to_dict(traced())))
    return data


def broken(**change: Any) -> dict[str, Any]:
    return {**valid(), **change}


def with_node(**change: Any) -> dict[str, Any]:
    data = valid()
    data["nodes"][2] = {**data["nodes"][2], **change}
    return data


def without_attribute() -> dict[str, Any]:
    data = valid()
    del data["nodes"][0]["saved"]
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], 'not a gradgraph graph: expected a JSON object with "format": "gradgraph".'),
        ({"nodes": []}, "not a gradgraph graph"),
        (broken(schema=2), "written with schema 2, and this gradgraph reads up to 1: upgrade it with pip"),
        (broken(schema="1"), "expected \"schema\" to be a whole number from 1, got str '1'"),
        (broken(schema=True), 'expected "schema" to be a whole number from 1'),
        (broken(nodes={}), 'expected "nodes" to be list, got dict'),
        (broken(nodes=[3]), "expected node 0 to be dict, got int 3"),
        (broken(edges=[{"source": 0, "target": 1}]), 'expected "key" of edge 0 to be int, got NoneType'),
        (broken(edges=[{"source": 0, "target": 999, "key": 0}]), "edge 0 goes from 0 to 999; expected both"),
        (broken(edges=[{"source": 0, "target": 1, "key": 0}] * 2), "edge 1 repeats the edge 0 to 1 with key 0"),
        (with_node(id=0), "two nodes have the id 0"),
        (with_node(id="2"), "expected \"id\" of node 2 to be int, got str '2'"),
        (with_node(op=7), "node 2 has int 7 as 'op'; expected str."),
        (with_node(name=["x"]), "node 2 has list as 'name'; expected str or null."),
        (with_node(gradient={"$float": "1e9"}), 'expected "$float" to be'),
        (without_attribute(), "node 0 lacks the attribute 'saved'"),
    ],
)
def test_malformed_data_is_named(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ReadError) as caught:
        from_dict(data)
    assert message in str(caught.value)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ReadError) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b'{"format": "gradgraph", "schema": 1, "nodes": [{"op"', "it is truncated or damaged"),
        (b'{"format": "gradgraph", "schema": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"schema": ' + b"9" * 10_000 + b"}", "is not valid JSON"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
    ],
)
def test_damaged_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ReadError) as caught:
        read_json(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="No such file or directory"):
        read_json(tmp_path / "none.json")
    with pytest.raises(ReadError, match="Is a directory"):
        read_json(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    graph = traced()
    path = write_json(graph, tmp_path / "g.json")
    before = path.read_bytes()
    graph.nodes[0]["mine"] = object()
    with pytest.raises(InputError, match=r"the graph cannot be written as JSON: .* gradgraph.annotate checks that"):
        write_json(graph, path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"cannot write .*: No such file or directory. Expected a path in an existing"):
        write_json(traced(), tmp_path / "missing" / "g.json")
    assert os.listdir(tmp_path) == ["g.json"]


def test_files_get_the_usual_mode(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        path = write_json(traced(), tmp_path / "g.json")
        assert path.stat().st_mode & 0o777 == 0o644
        path.chmod(0o600)
        assert write_json(traced(), path).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(umask)


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_json(traced(), tmp_path / name).read_bytes() for name in ("a.json", "b.json"))
    assert first == second
