"""What is drawn: boxes, arrows and their texts."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradgraph import AutogradGraph
from gradgraph.errors import InputError
from gradgraph.render.compose import picture_of
from gradgraph.render.font import text_width
from gradgraph.render.lines import Line, Show, format_bytes, format_number, format_shape, lines_of, shorten
from gradgraph.render.measures import Measure
from gradgraph.render.picture import DETAIL_PT, HEAD_PT, Picture, box
from tests.render.graphs import GALLERY, chain, made, out, sample, stats

EVERYTHING = Show(gradients=True, hessian=True, saved=True)


def texts(picture: Picture) -> dict[str, list[str]]:
    return {one.key: [line.text for line in one.lines] for one in picture.boxes}


@pytest.mark.parametrize("name", GALLERY)
def test_every_node_and_edge_is_drawn(name: str) -> None:
    graph = GALLERY[name]()
    picture = picture_of(graph, Show())
    boxes = Counter(one.category for one in picture.boxes)
    kinds = nx.get_node_attributes(graph, "kind")
    for kind in ("op", "custom", "opaque", "blocked"):
        assert boxes[kind] == sum(value == kind for value in kinds.values())
    uses = {(u, v) for u, v in graph.edges() if kinds[v] == "leaf"}
    lonely = [key for key, kind in kinds.items() if kind == "leaf" and graph.in_degree(key) == 0]
    assert boxes["leaf"] == len(uses) + len(lonely)
    assert boxes["root"] == len(set(graph.roots))
    roles = Counter(arrow.role for arrow in picture.arrows)
    expected = Counter(data["role"] for *_, data in graph.edges(data=True))
    assert roles == expected + Counter(mark=len(set(graph.roots)))
    keys = [one.key for one in picture.boxes]
    assert len(keys) == len(set(keys))
    assert {end for arrow in picture.arrows for end in (arrow.tail, arrow.head)} <= set(keys)


@pytest.mark.parametrize("name", GALLERY)
def test_texts_fit_their_boxes(name: str) -> None:
    for one in picture_of(GALLERY[name](), Show(saved=True)).boxes:
        widest = max(text_width(line.text, HEAD_PT if line.role == "head" else DETAIL_PT) for line in one.lines)
        assert widest + 8 <= one.width
        assert 12 * len(one.lines) + 8 <= one.height


def test_a_leaf_is_copied_at_each_use_and_says_so() -> None:
    picture = picture_of(chain(3), EVERYTHING)
    assert [one.lines[2].text for one in picture.boxes if one.category == "leaf"] == [
        "use 1 of 3",
        "use 2 of 3",
        "use 3 of 3",
    ]
    assert [one.copy for one in picture.boxes if one.category == "leaf"] == [False, True, True]


def test_only_the_first_copy_of_a_leaf_carries_annotations() -> None:
    shown = texts(picture_of(sample(), EVERYTHING))
    assert shown["n4u7"] == [
        "encoder.0.weight",
        "[2, 3]",
        "use 1 of 2",
        "‖grad‖ 0.25, max 0.25",
        ".grad pass 1: 2, total 2",
        ".grad pass 2: 1, total 3",
        "H diag mean = 0.5",
        "H diag -1.25 to 3, 2 negative",
    ]
    assert shown["n5u7"] == ["encoder.0.weight", "[2, 3]", "use 2 of 2"]


def test_parallel_edges_are_both_drawn_to_one_copy() -> None:
    graph = made(
        [{"op": "MulBackward0"}, {"op": "AccumulateGrad", "kind": "leaf", "name": "x"}], [(0, 1, 0), (0, 1, 1)]
    )
    picture = picture_of(graph, Show())
    assert [one.key for one in picture.boxes] == ["root0", "n0", "n0u1"]
    arrows = [arrow for arrow in picture.arrows if arrow.role == "gradient"]
    assert [(arrow.tail, arrow.head, arrow.label) for arrow in arrows] == [("n0", "n0u1", "0, 1"), ("n0", "n0u1", "")]


def test_slots_and_outputs_are_labelled_where_there_are_several() -> None:
    labels = {(arrow.tail, arrow.head): arrow.label for arrow in picture_of(sample(), Show()).arrows if arrow.label}
    assert labels == {
        ("n1", "n2"): "0 → out 0\n1 → out 1",
        ("n3", "n4"): "0, 1",
        ("n4", "n5"): "0",
        ("n4", "n4u7"): "2",
        ("n5", "n6"): "0",
        ("n5", "n5u7"): "1",
    }


def test_roots_are_marked_with_their_places_among_the_outputs() -> None:
    nodes = [{"op": "A"}, {"op": "B"}, {"op": "AccumulateGrad", "kind": "leaf", "name": "x"}]
    picture = picture_of(made(nodes, [(0, 2), (1, 2)], roots=[0, 1, 0, 2]), Show())
    marks = {arrow.tail: arrow.head for arrow in picture.arrows if arrow.role == "mark"}
    assert marks == {"root0": "n0", "root1": "n1", "root2": "n0u2"}
    shown = texts(picture)
    assert [shown[key] for key in marks] == [["root 0, 2"], ["root 1"], ["root 3"]]


def test_a_graph_that_is_one_leaf() -> None:
    graph = made([{"op": "AccumulateGrad", "kind": "leaf", "name": "x", "outputs": [out()]}], [])
    assert texts(picture_of(graph, Show())) == {"root0": ["root"], "n0": ["x", "scalar"]}


def test_an_empty_graph_has_no_boxes() -> None:
    picture = picture_of(AutogradGraph(), Show())
    assert picture.boxes == ()
    assert picture.arrows == ()
    assert picture.connected


def test_copies_can_take_a_picture_apart() -> None:
    nodes = [{"op": "A"}, {"op": "B"}, {"op": "AccumulateGrad", "kind": "leaf", "name": "x"}]
    graph = made(nodes, [(0, 2), (1, 2)], roots=[0, 1])
    assert nx.is_weakly_connected(graph)
    assert not picture_of(graph, Show()).connected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"gradient": None}, [Line("no gradient arrives")]),
        ({"gradient": [stats(2.0)]}, [Line("‖grad‖ 2, max 2", "note")]),
        ({"gradient": [stats(2.0), None]}, [Line("‖grad 0‖ 2, max 2", "note"), Line("no gradient 1")]),
        ({"gradient": [stats(0.0, zeros=6)]}, [Line("‖grad‖ 0, all zero", "note")]),
        ({"gradient": [stats(1.0, nan=2)]}, [Line("gradient: 2 NaN of 6", "alert")]),
        ({"gradient": [stats(None, nan=2, inf=4)]}, [Line("gradient: 2 NaN, 4 inf of 6", "alert")]),
        ({"gradient": [stats(None)]}, [Line("‖grad‖ unknown, max unknown", "note")]),
        (
            {"gradient": [stats(1.0)] * 8},
            [*[Line(f"‖grad {i}‖ 1, max 1", "note") for i in range(6)], Line("+2 more gradients")],
        ),
    ],
)
def test_gradients_in_words(attributes: dict[str, Any], expected: list[Line]) -> None:
    assert lines_of({"op": "A", **attributes}, Show(gradients=True))[1:] == expected
    assert lines_of({"op": "A", **attributes}, Show()) == [Line("A", "head")]


def test_long_ledgers_show_the_last_passes() -> None:
    passes = [{"pass": n, "contribution": float(n), "total": float("nan") if n == 9 else 0.0} for n in range(1, 10)]
    lines = lines_of({"op": "A", "gradient": [], "accumulated": passes}, Show(gradients=True))
    assert [line.text for line in lines[1:3]] == [".grad: 3 earlier passes", ".grad pass 4: 4, total 0"]
    assert lines[-1] == Line(".grad pass 9: 9, total nan", "alert")


def test_no_figure_is_cut() -> None:
    worst, most = -1.2345e-105, 123_456
    diagonal = {"exact": False, "mean": worst, "min": worst, "max": worst, "negative": most}
    passes = [{"pass": most, "contribution": -worst, "total": -worst}]
    data = {"op": "A", "hessian_diagonal": diagonal, "gradient": [], "accumulated": passes, "curvature": worst}
    lines = lines_of(data, Show(gradients=True, hessian=True, curvature=1.0))
    assert [shorten(line.text) for line in lines] == [line.text for line in lines]
    assert [line.text for line in lines[-3:-1]] == ["H diag -1.23e-105 to -1.23e-105", "123,456 negative"]
    diagonal = {"mean": 0.1, "min": -0.0575, "max": 0.185, "negative": 1}  # of the README's program with another seed
    texts = [line.text for line in lines_of({"op": "A", "hessian_diagonal": diagonal}, Show(hessian=True))]
    assert texts[2:] == ["H diag -0.0575 to 0.185", "1 negative"]


def test_estimated_hessians_are_not_shown_as_exact() -> None:
    diagonal = {"exact": False, "mean": 1.0, "min": 0.0, "max": 2.0, "negative": 0}
    texts = [line.text for line in lines_of({"op": "A", "hessian_diagonal": diagonal}, Show(hessian=True))]
    assert texts == ["A", "H diag mean ≈ 1", "H diag 0 to 2"]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/me/project/train.py:12 in step", "train.py:12 in step"),
        ("C:\\project\\train.py:12 in <module>", "train.py:12"),
        ("/site-packages/loss_utils.py:36 in a_function_with_a_long_name", "loss_utils.py:36"),
    ],
)
def test_sources_say_file_and_line_first(source: str, shown: str) -> None:
    line = lines_of({"op": "A", "source": source}, Show())[1]
    assert (line.text, line.full) == (shown, source)
    assert box("n0", [Line("A", "head"), line], "op", 0).full == f"A\n{source}"


def test_calls_are_numbered_where_a_module_was_called_again() -> None:
    data = {"op": "A", "module": "cell", "module_call": 2}
    assert lines_of(data, Show())[1].text == "module cell"
    assert lines_of(data, Show(called_again=frozenset(["cell"])))[1].text == "module cell #2"


def test_saved_tensors_in_words() -> None:
    graph = sample()
    assert [(line.text, line.role) for line in lines_of(graph.nodes[4], Show(saved=True))[4:]] == [
        ("keeps 24 B", "note"),
        ("mat1 freed", "note"),
        ("mat2 [2, 3] 24 B", "detail"),
        ("x packed", "note"),
    ]
    # One that was changed in place makes the next backward fail, and is told without being asked for.
    assert Line("changed in place: other", "alert") in lines_of(graph.nodes[1], Show())


@given(st.text())
def test_a_line_is_one_short_printable_line(text: str) -> None:
    short = shorten(text, 20)
    assert len(short) <= 20
    assert short.isprintable()
    assert short == short.strip() or "…" in short


def test_shortening_keeps_both_ends() -> None:
    assert shorten("transformer.h.0.attn.c_attn.weight", 24) == "transforme…c_attn.weight"
    assert shorten("short") == "short"
    assert shorten("3 ops: MulBackward0 … AddBackward0", 24) == "3 ops: Mul…AddBackward0"
    cut = box("k", [Line("a" * 100, "head")], "op", 0)
    assert cut.full == "a" * 100
    assert len(cut.lines[0].text) == 34


def test_numbers_bytes_and_shapes_in_words() -> None:
    assert [format_number(value) for value in (0, 1 / 3, 1e-9, 123456.0, math.nan, math.inf)] == [
        "0",
        "0.333",
        "1e-09",
        "1.23e+05",
        "nan",
        "inf",
    ]
    assert [format_number(value, sign=True) for value in (1.5, -1.5, 0.0)] == ["+1.5", "-1.5", "0"]
    sizes = (0, 1023, 1024, 1024**2 - 1, 5 * 1024**3, 3 * 1024**4, None)
    assert [format_bytes(size) for size in sizes] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.0 MiB",
        "5.0 GiB",
        "3.0 TiB",
        "unknown",
    ]
    assert [format_shape(shape) for shape in ([], [2, 3], None)] == ["scalar", "[2, 3]", "ragged"]


def test_the_fill_follows_a_measure() -> None:
    picture = picture_of(sample(), Show(), color="gradient")
    assert picture.measure == Measure("gradient norm", 0.25, 1.0, "log")
    values = {one.key: one.measure for one in picture.boxes}
    assert values["n0"] == 1.0
    assert values["n3"] is None
    assert picture_of(sample(), Show(), color="curvature").measure == Measure("curvature", -1.5, 1.5, "signed")


def test_measures_spread_between_their_bounds() -> None:
    log = Measure("", 0.01, 100.0, "log")
    assert [log.place(value) for value in (0.01, 1.0, 100.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert log.place(0.0) == 0.0
    signed = Measure("", -2.0, 2.0, "signed")
    assert [signed.place(value) for value in (-2.0, 0.0, 2.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert math.isnan(signed.place(math.nan))
    assert Measure("", 0.0, 0.0, "signed").place(0.0) == 0.5
    assert Measure("", 3.0, 3.0, "log").place(3.0) == 1.0


def test_a_measure_that_no_node_carries_is_refused() -> None:
    with pytest.raises(InputError, match="needs nodes that carry 'curvature', and none has a finite value; annotate"):
        picture_of(chain(2), Show(), color="curvature")
    with pytest.raises(InputError, match="'depth' is not known: expected one of order, gradient, hessian_diagonal"):
        picture_of(chain(2), Show(), color="depth")  # type: ignore[arg-type]
