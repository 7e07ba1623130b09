"""Pictures in the DOT language: the same bytes each time, whatever the texts hold."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradgraph import AutogradGraph
from gradgraph.render.compose import picture_of
from gradgraph.render.dot import dot_of, quoted
from gradgraph.render.engines import layout_embedded, layout_installed
from gradgraph.render.image import clean_svg
from gradgraph.render.lines import Line, Show
from gradgraph.render.picture import Arrow, Picture, box
from gradgraph.render.theme import DARK, LIGHT, Theme
from tests.render.graphs import GALLERY, chain, compare, sample

ENGINES = {
    "dot": pytest.param(layout_installed, marks=pytest.mark.needs_dot, id="dot"),
    "embedded": pytest.param(layout_embedded, marks=pytest.mark.needs_embedded, id="embedded"),
}
EVERYTHING = Show(gradients=True, hessian=True, saved=True)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_golden(theme: Theme, regenerate: bool) -> None:
    picture = picture_of(sample(), EVERYTHING, title='A "sample" of <everything> & more')
    compare(f"sample-{theme.name}.dot", dot_of(picture, theme), regenerate)


def test_golden_measure(regenerate: bool) -> None:
    compare("sample-gradient.dot", dot_of(picture_of(sample(), Show(), color="gradient"), LIGHT), regenerate)


@pytest.mark.parametrize("name", GALLERY)
def test_the_same_graph_gives_the_same_portable_text(name: str) -> None:
    first, second = (dot_of(picture_of(GALLERY[name](), EVERYTHING), LIGHT) for _ in range(2))
    assert first == second
    # Old Graphviz paints short colours black and the embedded one shows the node's name for an HTML label.
    assert not re.search(r'"#(?![0-9a-f]{6}")', first)
    assert not re.search(r"=\s*<", first)
    assert "splines" not in first


def texts_of(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(clean_svg(svg.decode()))
    return ["".join(text.itertext()).replace("\xa0", " ") for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("layout", ENGINES.values())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(names=st.lists(st.text(min_size=1), min_size=5, max_size=30))
def test_any_text_survives(layout: object, names: list[str]) -> None:
    lines = [[Line(f"·{name}", "head"), Line(name + "·")] for name in names]
    boxes = tuple(box(f"n{index}", pair, "op", 0) for index, pair in enumerate(lines))
    arrows = tuple(Arrow(a.key, b.key) for a, b in pairwise(boxes))
    source = dot_of(Picture(boxes, arrows), LIGHT)
    assert callable(layout)
    drawn = texts_of(layout(source.encode(), layout="dot", timeout=20.0))
    expected = [line.text for one in boxes for line in one.lines]
    assert sorted(drawn)[: -2 or None] == sorted([*expected, "order 0", "gradient"])[: -2 or None]


@pytest.mark.parametrize("layout", ENGINES.values())
def test_hostile_names_are_only_text(layout: object) -> None:
    names = [
        '"];evil -> n0 [label="x',
        "back\\slash\\",
        "\\N \\G \\l \\n",
        "<b>bold</b>",
        "<lambda>",
        "a:b:c",
        "&lt;&#60;&amp;",
        "</script><script>alert(1)</script>",
        "{record|<port> x}",
        "λ 中文 ∂",
        "%s %d {}",
        "//comment /* */ #",
    ]
    boxes = tuple(box(f"n{index}", [Line(name, "head")], "op", 0) for index, name in enumerate(names))
    source = dot_of(Picture(boxes, tuple(Arrow(a.key, b.key) for a, b in pairwise(boxes))), LIGHT)
    assert callable(layout)
    assert set(names) <= set(texts_of(layout(source.encode(), layout="dot", timeout=20.0)))


def test_quoted() -> None:
    assert quoted('say "\\"') == r'"say \"\\\""'
    assert quoted("<b>&lt;") == '"<b>&amp;lt;"'


def legend(dot: str) -> str:
    return dot.partition("cluster_legend")[2].partition("\n  }")[0]


def test_the_legend_holds_only_what_occurs() -> None:
    small = legend(dot_of(picture_of(chain(1), Show()), LIGHT))
    assert re.findall(r'label="([^"]+)"', small) == ["order 0", "leaf", "gradient"]
    full = legend(dot_of(picture_of(sample(), Show()), LIGHT))
    assert re.findall(r'label="([^"]+)"', full) == [
        "order 0",
        "order 1",
        "leaf",
        "leaf, used again",
        "custom Function",
        "opaque",
        "not differentiable again",
        "gradient",
        "curvature",
    ]


def test_the_legend_tells_the_bounds_of_a_measure() -> None:
    shown = legend(dot_of(picture_of(sample(), Show(), color="gradient"), LIGHT))
    assert re.findall(r'label="([^"]+)"', shown)[-3:] == ["gradient norm", "0.25", "1"]


def test_orders_above_four_share_a_colour() -> None:
    boxes = tuple(box(f"n{order}", [Line("A", "head")], "op", order) for order in range(7))
    dot = dot_of(Picture(boxes, ()), LIGHT)
    assert legend(dot).count("order ") == 5
    assert len(set(re.findall(r'"n\d".*fillcolor="(#\w+)"', dot))) == 5


def test_an_empty_graph_says_so() -> None:
    dot = dot_of(picture_of(AutogradGraph(), Show()), LIGHT)
    assert 'label="an empty graph"' in dot
    assert "cluster_legend" not in dot
