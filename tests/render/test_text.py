"""A graph in words: counts, memory and an outline."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradgraph import AutogradGraph, trace
from gradgraph.errors import InputError
from gradgraph.render.table import table
from gradgraph.render.text import memory, outline, summary
from tests import cases
from tests.render.graphs import GALLERY, chain, compare, double_backward, made, out, sample, saved


def test_golden_summary(regenerate: bool) -> None:
    compare("sample-summary.txt", summary(sample()).to_text() + "\n", regenerate)


def test_golden_memory(regenerate: bool) -> None:
    compare("sample-memory.txt", memory(sample()).to_text() + "\n", regenerate)


def test_golden_outline(regenerate: bool) -> None:
    compare("sample-outline.txt", outline(sample()) + "\n", regenerate)


@pytest.mark.parametrize("name", GALLERY)
def test_a_summary_counts_everything_once(name: str) -> None:
    graph = GALLERY[name]()
    found = summary(graph)
    assert found.nodes == len(graph) == sum(found.by_order.values()) == sum(found.by_kind.values())
    assert sum(count for counts in found.ops.values() for count in counts.values()) + len(found.leaves) == found.nodes
    assert found.edges == graph.number_of_edges()
    assert found.saved_bytes == sum(data["saved_bytes"] for _, data in graph.nodes(data=True))
    assert found.saved_parameters + found.saved_activations == found.saved_bytes
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert str(found) == found.to_text()


def test_a_summary_names_leaves_and_oddities() -> None:
    found = summary(sample())
    assert next((leaf.name, leaf.shape, leaf.bytes, leaf.uses) for leaf in found.leaves) == (
        "encoder.0.weight",
        [2, 3],
        24,
        2,
    )
    assert found.curvature_edges == 2
    assert found.depth == 7
    assert found.detached_slots == 1
    assert found.packed == 1
    marked = {
        name: [entry.node for entry in getattr(found, name)]
        for name in ("custom", "opaque", "blocked", "freed", "modified")
    }
    assert marked == {"custom": [3], "opaque": [5], "blocked": [6], "freed": [4], "modified": [1]}


def test_bytes_of_leaves_of_all_kinds() -> None:
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
    leaves = [torch.ones(3, dtype=dtype, requires_grad=True) for dtype in dtypes]
    found = summary(trace([leaf.abs().sum() for leaf in leaves], leaves))
    assert [leaf.bytes for leaf in found.leaves] == [leaf.untyped_storage().nbytes() for leaf in leaves]


def test_memory_counts_each_storage_once() -> None:
    x = torch.ones(10, requires_grad=True)
    y = x.exp()
    graph = trace((y * y).sum() + (x[:5] * x[5:]).sum(), {"x": x})
    found = memory(graph)
    assert [(kept.bytes, kept.parameter, kept.shared_with) for kept in found.entries] == [(40, None, 2), (40, "x", 1)]
    assert (found.total, found.parameters, found.activations) == (80, 40, 40)


def test_memory_charges_what_a_view_keeps_alive() -> None:
    wide = torch.ones(1000)
    x = torch.ones(2, requires_grad=True)
    found = memory(trace((x * wide[:2]).sum(), {"x": x}))
    assert [kept.bytes for kept in found.entries] == [4000]
    assert found.total == 4000


def test_memory_of_a_graph_that_was_used_up() -> None:
    x = torch.ones(3, requires_grad=True)
    loss = (x.exp() * x).sum()
    torch.autograd.backward(loss)
    found = memory(trace(loss, {"x": x}))
    assert (found.entries, found.total, found.freed) == ([], 0, 3)
    assert found.to_text().splitlines()[0] == "no saved tensors"
    assert "freed       3, by a backward pass" in found.to_text()


def test_memory_behind_hooks_is_unknown() -> None:
    x = torch.ones(3, requires_grad=True)
    with torch.autograd.graph.save_on_cpu():
        loss = x.exp().sum()
    found = memory(trace(loss, {"x": x}))
    assert [(kept.state, kept.bytes, kept.shape) for kept in found.entries] == [("packed", None, None)]
    assert "packed      1 behind saved-tensor hooks, of unknown size" in found.to_text()


def test_memory_shows_the_largest() -> None:
    nodes: list[dict[str, Any]] = [
        {"op": f"Op{size}", "outputs": [out(1)], "saved": [saved("self", [size], size)], "saved_bytes": 4 * size}
        for size in range(1, 41)
    ]
    graph = made(nodes, [(key, key + 1) for key in range(39)])
    assert "… and 10 more" in memory(graph).to_text()
    few = memory(graph, top=3)
    assert [line.split()[0] for line in few.to_text().splitlines()[1:4]] == ["160", "156", "152"]
    assert [entry["bytes"] for entry in few.to_dict()["entries"]] == [160, 156, 152]
    assert few.to_dict()["left_out"] == 37
    assert few.total == sum(4 * size for size in range(1, 41))
    with pytest.raises(InputError, match="positive number of entries to show, got top=0"):
        memory(graph, top=0)


def test_memory_of_a_part_of_a_graph() -> None:
    graph = trace((torch.ones(4, requires_grad=True).exp() ** 2).sum())
    # Here the storage was charged to the power, which is left out.
    part = graph.subgraph([key for key, data in graph.nodes(data=True) if data["op"] == "ExpBackward0"])
    assert memory(part).total == 16


@pytest.mark.parametrize("name", GALLERY)
def test_memory_sums_to_what_the_nodes_keep(name: str) -> None:
    graph = GALLERY[name]()
    found = memory(graph)
    assert found.total == sum(data["saved_bytes"] for _, data in graph.nodes(data=True))
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_an_outline_refers_back_to_what_it_showed() -> None:
    case = cases.shared_leaf()
    assert outline(trace(case.outputs, case.params)) == "\n".join(
        [
            "0 SumBackward0 scalar",
            "1 AddBackward0 [2]",
            "  2 MulBackward0 [2]",
            "    3 w [2]",
            "    3 w (above)",
            "  3 w (above)",
        ]
    )


def test_an_outline_is_bounded() -> None:
    graph = chain(5000)
    text = outline(graph, max_lines=10, width=60).splitlines()
    assert len(text) == 10
    assert max(map(len, text)) <= 60
    assert text[-1] == f"… {len(graph) - 9} more nodes"
    with pytest.raises(InputError, match="max_lines >= 1 and width >= 20, got 0 and 100"):
        outline(graph, max_lines=0)


@given(st.integers(1, 60))
def test_an_outline_accounts_for_every_node(lines: int) -> None:
    graph = sample()
    text = outline(graph, max_lines=lines).splitlines()
    assert len(text) <= lines
    hidden = int(text[-1].split()[1]) if text[-1].startswith("…") else 0
    shown = {line.split()[0] for line in text if not line.startswith("…")}
    assert len(shown) + hidden == len(graph)


def test_words_of_an_empty_graph() -> None:
    graph = AutogradGraph()
    assert outline(graph) == "an empty graph"
    assert summary(graph).to_text().startswith("0 nodes, 0 edges")
    assert memory(graph).total == 0


def test_hostile_names_stay_on_their_line() -> None:
    name = "evil\x1b[31m\nname" + "x" * 200
    nodes: list[dict[str, Any]] = [
        {"op": "A", "name": name, "saved": [saved("self", [1], 0)], "saved_bytes": 4},
        {"op": "AccumulateGrad", "kind": "leaf", "name": name, "outputs": [out(1)], "module": name, "storage": 0},
    ]
    graph = made(nodes, [(0, 1)])
    for text in (summary(graph).to_text(), memory(graph).to_text(), outline(graph)):
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 100


def test_tables_give_way_in_one_column() -> None:
    rows = [["a" * 50, "1"], ["b", "22"]]
    assert table(rows, right=(1,), width=30, indent="  ") == [
        f"  {'a' * 10}…{'a' * 13}   1",
        "  b" + " " * 23 + "  22",
    ]
    assert table([]) == []


def test_double_backward_in_words() -> None:
    text = summary(double_backward()).to_text()
    assert "order 0: 9 nodes" in text
    assert "order 1:" in text
    assert "  0.weight  [4, 3]" in text
