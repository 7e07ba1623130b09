"""Each node's share of a curvature: by figure, by colour, in folded boxes, and of what."""

from __future__ import annotations

import math
from typing import Any

import pytest

import gradgraph
from gradgraph import AutogradGraph
from gradgraph.render import to_dot, to_svg
from gradgraph.render.lines import Show, curvature_lines
from gradgraph.render.shares import curvature_words
from gradgraph.shares import about_curvature, format_share, magnitude_of, share_of, shares_words, total_of
from tests.render.graphs import chain
from tests.render.views import layered


def curved(values: dict[int, float], steps: int = 5, **about: Any) -> AutogradGraph:
    graph = chain(steps)
    gradgraph.annotate(graph, "curvature", values)
    if about:
        graph.graph["curvature"] = about
    return graph


def test_a_box_tells_its_part_of_the_whole() -> None:
    dot = to_dot(curved({0: 3.0, 1: -1.0, 2: 0.0}))
    for text in ("curvature +3 (+75 %)", "curvature -1 (-25 %)", "shares of 4, the sum of all magnitudes"):
        assert text in dot
    assert "curvature 0" not in dot, "most operations add nothing: their fill says so"


def test_shares_are_of_the_whole_graph_whatever_is_shown_of_it() -> None:
    graph = curved({0: 3.0, 1: 1.0})
    assert "curvature +3 (+75 %)" in to_dot(graph, focus=0, hops=0)
    assert "curvature +1 " not in to_dot(graph, focus=0, hops=0)
    assert "(+75 %)" in to_dot(gradgraph.fold(graph, by="none"))
    assert "(+75 %)" in to_dot(gradgraph.focus(graph, 0, hops=0))
    # A part of a graph does not tell the whole, unless the graph says it.
    part = gradgraph.AutogradGraph(graph.subgraph([0]))
    assert "(+100 %)" in to_dot(part)
    part.graph["curvature"] = {"of": "trace", "total": 2.0, "magnitude": 4.0}
    assert "(+75 %)" in to_dot(part)


def test_a_share_is_of_magnitudes_so_that_cancelling_parts_stay_parts() -> None:
    for sign in (1, -1):
        graph = curved({0: 3.0, 1: sign - 3.0})
        magnitude = 6 - sign
        for drawn in (graph, gradgraph.fold(graph, by="none")):
            assert f"curvature +3 (+{300 / magnitude:.0f} %)" in to_dot(drawn)
    # A box in which parts cancel has the share of what is left; the others keep theirs.
    values = {key: (-1.0) ** key for key, data in chain(40).nodes(data=True) if data["kind"] != "leaf"}
    graph = curved(values, 40)
    about = gradgraph.fold(graph, "repeat").graph["curvature"]
    assert about == {"of": None, "total": math.fsum(values.values()), "magnitude": float(len(values))}


def test_a_folded_box_has_the_sum_and_its_share() -> None:
    graph = curved({key: 1.0 for key, data in chain(40).nodes(data=True) if data["kind"] != "leaf"}, 40)
    view = gradgraph.fold(graph, "repeat")
    whole = math.fsum(data["curvature"] or 0.0 for _, data in graph.nodes(data=True))
    boxes = [data["curvature"] for _, data in view.nodes(data=True) if data["curvature"] is not None]
    assert math.fsum(boxes) == whole
    assert f"curvature +{max(boxes):g} (+{100 * max(boxes) / whole:.0f} %)" in to_dot(view)
    assert "curvature -1.25" in to_dot(layered())  # it hides nodes and does not know the whole


def test_the_caption_says_of_what() -> None:
    about: dict[str, Any] = {"of": "gradient", "total": 4.0, "gauss_newton": 5.0, "residual": -1.0}
    words = "curvature along the gradient +4: Gauss-Newton +5, residual -1"
    for graph in (curved({0: 4.0}, **about), gradgraph.fold(curved({0: 4.0}, **about), "chain")):
        assert words in to_svg(graph)
        assert "shares of" not in to_svg(graph)  # nothing cancels
    assert curvature_words({"of": "trace", "total": 2.5, "stderr": 0.1}) == (
        "trace of the Hessian +2.5 ± 0.1 (estimated)"
    )
    assert "trace" not in to_svg(curved({0: 4.0}))
    assert "trace" not in to_svg(chain(5))


def test_what_a_colour_stands_for_is_in_the_legend_and_zero_in_its_middle() -> None:
    svg = to_svg(curved({0: 3.0, 1: -1.0, 2: 0.0}), color="curvature")
    assert ">curvature</text>" in svg
    assert "+3</text>" in svg


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_an_alert_without_a_share(value: float) -> None:
    (line,) = curvature_lines({"curvature": value}, Show(curvature=2.0))
    assert line.role == "alert"
    assert "%" not in line.text
    (line,) = curvature_lines({"curvature": 1.0}, Show(curvature=value))
    assert (line.text, line.role) == ("curvature +1", "note")
    graph = curved({0: value, 1: 1.0, 2: -value})
    assert about_curvature(graph.nodes.values(), graph.graph) is not None
    boxes = gradgraph.fold(graph, "chain")
    assert boxes.number_of_nodes() < len(graph)


def test_sums_and_shares() -> None:
    assert total_of([1e100, 1.0, -1e100]) == 1.0
    assert total_of([math.inf, 1.0]) == math.inf
    assert math.isnan(total_of([math.inf, -math.inf]))
    assert magnitude_of([3.0, -2.0]) == 5.0
    assert [share_of(-2.0, one) for one in (5.0, 0.0, None, math.inf, math.nan)] == [-0.4, None, None, None, None]
    assert [format_share(one) for one in (1.0, 0.0994, -0.0996, -1e-5)] == ["+100 %", "+9.9 %", "-10 %", "<0.1 %"]
    assert [shares_words(-4.0, one) for one in (4.0, None, 0.0, math.nan)] == [None] * 4
    assert shares_words(-0.036, 4.5) == "shares of 4.5, the sum of all magnitudes"
    graph = chain(3)
    assert about_curvature(graph.nodes.values(), graph.graph) is None
