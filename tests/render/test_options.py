"""What of a graph is drawn, and options that cannot be."""

from __future__ import annotations

import re
from typing import Any

import pytest

import gradgraph
from gradgraph import AutogradGraph
from gradgraph.errors import InputError
from gradgraph.render import to_dot, to_svg
from gradgraph.render.subject import subject_of
from tests.render.graphs import chain, double_backward, four_orders
from tests.render.views import layered


def boxes(svg: str) -> int:
    return svg.count('class="node"')


def test_a_graph_that_can_be_taken_in_is_left_as_it_is() -> None:
    graph = double_backward()
    assert subject_of(graph)[0] is graph
    assert subject_of(chain(149))[0].number_of_nodes() == 151 - 1
    assert isinstance(subject_of(chain(150))[0], gradgraph.View)


def test_a_large_graph_is_folded() -> None:
    svg = to_svg(chain(400))
    assert boxes(svg) < 160
    assert "nodes folded into" in svg
    assert boxes(to_svg(chain(400), fold="none")) == 801
    few, _ = subject_of(chain(400), max_nodes=5)
    assert len(few) <= 5


def test_a_small_graph_is_folded_on_demand() -> None:
    view, captions = subject_of(chain(20), fold="repeat")
    assert len(view) < 20
    assert captions[0].startswith("21 nodes folded into")
    assert isinstance(subject_of(chain(20), max_nodes=10)[0], gradgraph.View)
    assert isinstance(subject_of(chain(20), depth=0)[0], gradgraph.View)


def test_a_view_is_drawn_as_it_is() -> None:
    view = layered()
    assert subject_of(view)[0] is view
    large = gradgraph.fold(chain(300), by="none")
    assert boxes(to_svg(large)) == 601
    assert "digraph" in to_dot(view)


@pytest.mark.parametrize("options", [{"fold": "module"}, {"depth": 1}, {"expand": "h"}, {"expand": ["h"]}])
def test_a_view_is_not_folded_again(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"this is a View, which is drawn as it is; give them to gradgraph\.fold"):
        to_svg(layered(), **options)


def test_some_orders_only() -> None:
    graph = double_backward()
    part, captions = subject_of(graph, order=1)
    assert {data["order"] for data in part.nodes.values()} == {1}
    assert captions == (f"order 1 only: {len(graph) - len(part)} of {len(graph)} nodes not shown",)
    assert len(subject_of(graph, order=[0, 1])[0]) == len(graph)
    assert subject_of(graph, order=[0, 1])[1] == ()
    svg = to_svg(four_orders(), order={1, 3})
    assert re.findall(r">(order \d)[ <]", svg) == ["order 1", "order 3"]
    boxes_left, said = subject_of(layered(), order=2)  # box 6 has orders 0 to 3
    assert list(boxes_left) == [6]
    assert said[0] == "order 2 only: 6 of 7 boxes not shown"


def test_an_order_that_is_not_there_is_told_even_where_another_is() -> None:
    with pytest.warns(UserWarning, match=r"^no node has order 3, 7: this graph has 0, 1\.$") as warned:
        svg = to_svg(double_backward(), order=[1, 7, 3])
    assert svg == to_svg(double_backward(), order=1)
    assert len(warned) == 1


def test_a_neighbourhood() -> None:
    view, captions = subject_of(chain(400), focus=5, hops=1)
    assert len(view) < 8
    assert captions == (f"{401 - len(view)} of 401 nodes not shown",)
    assert "… 1 more" in to_svg(chain(400), focus=5, hops=1)
    assert boxes(to_svg(layered(), focus="head", hops=1)) < 7
    folded, said = subject_of(chain(400), fold="repeat", focus="weight", hops=1)
    assert len(folded) < 10
    assert "folded into" in said[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": "modules"}, r"fold='modules' is not known: expected one of auto, none, module, line, repeat, chain"),
        ({"fold": "none", "depth": 1}, "fold='none' does not fold; leave them out"),
        ({"fold": "none", "expand": ["x"]}, "fold='none' does not fold; leave them out"),
        ({"max_nodes": 0}, "max_nodes=0 is no limit: expected a positive whole number"),
        ({"max_nodes": 1.5}, r"max_nodes=1\.5 is no limit"),
        ({"max_nodes": True}, "max_nodes=True is no limit"),
        ({"order": 3}, r"no node has order 3: this graph has 0, 1\."),
        ({"order": -1}, r"order=\[-1\] is no order: expected 0, 1, 2"),
        ({"order": []}, r"order=\[\] is no order"),
        ({"order": "1"}, r"order=\['1'\] is no order"),
        ({"layout": "circle"}, "layout='circle' is not known: expected one of auto, lanes, dot"),
        ({"engine": "cairo"}, "engine='cairo' is not known: expected one of auto, dot, embedded"),
        ({"timeout": 0}, "timeout=0 cannot be used: expected a positive number"),
        ({"timeout": float("nan")}, "timeout=nan cannot be used"),
        ({"theme": "sepia"}, "theme='sepia' is not known"),
        ({"max_boxes": 0}, "max_boxes=0 is no limit"),
        ({"focus": 999_999}, "focus"),
        ({"focus": 0, "hops": -1}, "hops"),
        ({"depth": -1}, "depth"),
        ({"expand": "nowhere"}, "nowhere"),
        ({"color": "depth"}, "color='depth' is not known"),
    ],
)
@pytest.mark.parametrize("draw", [to_svg, to_dot])
def test_options_that_cannot_be(draw: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(double_backward(), **options)


@pytest.mark.parametrize("dpi", [0, -1, float("inf"), "144", True])
def test_a_resolution_that_cannot_be(dpi: Any, tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"dpi=.* cannot be used: expected a positive number"):
        gradgraph.render(chain(1), tmp_path / "x.png", dpi=dpi)


@pytest.mark.parametrize("layout", ["auto", "dot", "lanes"])
def test_an_empty_graph(layout: Any) -> None:
    assert "an empty graph" in to_svg(AutogradGraph(), layout=layout)
    assert "an empty graph" in to_dot(AutogradGraph(), layout=layout)


def test_lanes_are_chosen_for_several_orders_and_large_pictures() -> None:
    assert 'class="lane"' in to_svg(double_backward())
    assert 'class="lane"' not in to_svg(double_backward(), layout="dot")
    assert "neato -n2" in to_dot(chain(900), fold="none")
    assert "neato -n2" not in to_dot(chain(90), fold="none")
