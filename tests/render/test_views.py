"""Pictures of views: folded boxes, counts, clusters, captions; and the same in lanes, as DOT and as SVG."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import gradgraph
from gradgraph.layout import Link, Spot, lanes
from gradgraph.render import to_dot, to_svg
from gradgraph.render.by_dot import placed_by_dot
from gradgraph.render.compose import picture_of
from gradgraph.render.dot import dot_of
from gradgraph.render.engines import layout_embedded, layout_installed
from gradgraph.render.folded import folded_lines, short_op
from gradgraph.render.lines import Line, Show
from gradgraph.render.measures import Measure
from gradgraph.render.picture import Picture
from gradgraph.render.places import placed
from gradgraph.render.subject import subject_of
from gradgraph.render.svg import svg_of
from gradgraph.render.theme import DARK, LIGHT, Theme
from tests.render.graphs import GALLERY, compare, double_backward, made
from tests.render.views import folded, layered

EVERYTHING = Show(gradients=True, hessian=True)
SVG = "{http://www.w3.org/2000/svg}"
LAYOUTS = [
    pytest.param(layout_installed, marks=pytest.mark.needs_dot, id="dot"),
    pytest.param(layout_embedded, marks=pytest.mark.needs_embedded, id="embedded"),
]


def pictured(show: Show = EVERYTHING, **options: Any) -> Picture:
    view, captions = subject_of(layered())
    return picture_of(view, show, captions=captions, **options)


def texts(picture: Picture) -> dict[str, list[str]]:
    return {one.key: [line.text for line in one.lines] for one in picture.boxes}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_golden_dot_of_a_view(theme: Theme, regenerate: bool) -> None:
    compare(f"view-{theme.name}.dot", dot_of(pictured(title="A view"), theme), regenerate)


def test_golden_dot_of_a_view_in_lanes(regenerate: bool) -> None:
    picture, places = placed(pictured(title="A view"), "lanes", engine="auto", timeout=20.0, max_boxes=2500)
    # The places are the layout's, which has goldens of its own.
    dot = re.sub(r'(pos|bb|lp)="[^"]*"', r'\1="…"', dot_of(picture, LIGHT, places))
    compare("view-lanes.dot", dot, regenerate)


@pytest.mark.parametrize("draw", LAYOUTS)
@pytest.mark.parametrize("layout", ["dot", "nop2"])
def test_both_engines_read_the_dot(draw: Any, layout: str) -> None:
    dot = to_dot(layered(), layout="dot" if layout == "dot" else "lanes")
    svg = draw(dot.encode(), layout=layout, timeout=20.0).decode()
    names = set(re.findall(r"<title>([^<]*)</title>", svg))
    assert {"b1", "b3", "b4", "n90", "n0", "root0"} <= names


def test_folded_boxes_say_what_a_person_wants() -> None:
    shown = texts(pictured())
    assert shown["b3"] == [
        "h.0 … h.11",
        "63 nodes · 5.0 MiB held",
        "24 Addmm, 12 Tanh, 24 leaves …",
        "‖grad‖ 0.001 to 2.5",
        "3 without gradient",
        "H diag -1 to 4",
    ]
    assert shown["b1"][3:] == ["gradients: 2 NaN", "‖grad‖ 0.001 to 2.5", "3 without gradient", "curvature -1.25"]
    assert shown["b4"][3:] == ["1 cannot be differentiated again", "1 custom"]
    assert shown["b3u" + "b5"] == ["h.*.weight", "[4, 4]", "use 2 of 2"]
    assert shown["b6"] == ["train.py:9 in step", "orders 0 to 3", "4 nodes", "4 Add"]


def test_alerts_inside_show_outside() -> None:
    alerts = {one.key for one in pictured().boxes if one.alert}
    assert alerts == {"b1", "b4"}
    assert {one.key for one in pictured(Show()).boxes if one.alert} == {"b4"}


def test_the_rim_says_what_is_beyond() -> None:
    assert texts(pictured())["n0"][-2:] == ["… 1 more consumer", "… 3 more inputs"]


def test_times_counts_creators_and_focus_reach_the_picture() -> None:
    picture = pictured()
    boxes = {one.key: one for one in picture.boxes}
    assert boxes["b3"].times == boxes["b1"].times == 12
    assert boxes["b1"].creators == (("b3", 60.0),)
    assert [one.key for one in picture.boxes if one.focus] == ["b3"]
    assert [one.copy for one in picture.boxes if one.stub] == [False, True]
    assert boxes["b6"].clusters == ("h", "h.inner")
    arrows = {(one.tail, one.head): one for one in picture.arrows}
    assert arrows["b1", "b3"].count == 36
    assert not arrows["b1", "b3"].plain
    assert arrows["b3", "b3ub5"].plain  # one for each of the twelve: not worth a word


def test_captions_say_what_is_folded_and_hidden() -> None:
    assert pictured().captions == ("160 nodes folded into 7 boxes", "1,000 of 1,234 nodes not shown")
    _, none = subject_of(double_backward())
    assert none == ()


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ("gradient", Measure("gradient norm", 2.5, 2.5, "log")),
        ("saved_bytes", Measure("bytes held", 5 << 20, 5 << 20, "log", "bytes")),
        ("curvature", Measure("curvature", -1.25, 1.25, "signed")),
        ("hessian_diagonal", Measure("mean of Hessian diagonal", -4.0, 4.0, "signed")),
    ],
)
def test_measures_of_folded_boxes(color: Any, expected: Measure) -> None:
    assert pictured(color=color).measure == expected


def test_ticks_of_a_scale() -> None:
    assert Measure("", 0.01, 100.0, "log").ticks() == [(0.0, "0.01"), (0.5, "1"), (1.0, "100")]
    assert Measure("", -2.0, 2.0, "signed").ticks() == [(0.0, "-2"), (0.5, "0"), (1.0, "+2")]
    assert [words for _, words in Measure("", 4.0, 1 << 22, "log", "bytes").ticks()] == ["4 B", "4.0 KiB", "4.0 MiB"]
    assert Measure("", 3.0, 3.0, "log").ticks() == [(1.0, "3")]


@pytest.mark.parametrize(
    ("op", "short"),
    [
        ("AddmmBackward0", "Addmm"),
        ("TanhBackwardBackward0", "Tanh′"),
        ("SoftmaxBackwardDataBackward0", "SoftmaxBackwardData′"),
        ("AccumulateGrad", "leaf"),
        ("MyFunctionBackward", "MyFunction"),
        ("Backward", "Backward"),
        ("Copy", "Copy"),
    ],
)
def test_operations_in_short(op: str, short: str) -> None:
    assert short_op(op) == short


def test_equal_operations_of_equal_parts_look_like_one() -> None:
    outputs = [{"shape": [2], "dtype": "float32", "device": "cpu"}]
    data = folded("AddmmBackward0", {"AddmmBackward0": 12}, times=12, op="AddmmBackward0", outputs=outputs)
    assert folded_lines(data, Show()) == [Line("AddmmBackward0", "head"), Line("[2]")]


def groups(svg: str, kind: str) -> list[ElementTree.Element]:
    return [one for one in ElementTree.fromstring(svg).iter(f"{SVG}g") if kind in (one.get("class") or "").split()]


def words(element: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{SVG}text")]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("layout", ["dot", "lanes"])
def test_a_view_as_svg(layout: str, theme: str) -> None:
    svg = to_svg(layered(), layout=layout, theme=theme, title="A <view>")
    assert len(groups(svg, "node")) == 9
    assert len(groups(svg, "edge")) == 8
    assert sum("×12" in words(one) for one in groups(svg, "node")) == 4
    heading = words(groups(svg, "heading")[0])
    assert {"A <view>", "160 nodes folded into 7 boxes", "1,000 of 1,234 nodes not shown"} <= set(heading)
    assert {"folded: many nodes", "that many times the same", "leaf", "leaf, used again"} <= set(heading)
    assert ("order 1" in heading) == (layout == "dot")  # elsewhere the lanes say so
    assert "×36" in [text for one in groups(svg, "label") for text in words(one)]
    assert {"h ×12", "inner"} <= {text for one in groups(svg, "label") for text in words(one)}
    lanes = [words(one) for one in groups(svg, "lane")]
    assert lanes == ([] if layout == "dot" else [["orders 0 to 3 · forward"], ["order 1 · its gradient"]])


def test_lanes_are_named_after_their_orders() -> None:
    names = [words(one)[0] for one in groups(to_svg(GALLERY["four_orders"](), layout="lanes"), "lane")]
    assert [name.partition(" · ")[0] for name in names] == [f"order {order}" for order in range(5)]
    assert names[0] == "order 0 · forward"
    assert groups(to_svg(GALLERY["chain"](), layout="lanes"), "lane") == []


def test_what_was_not_recorded_is_said() -> None:
    assert "creators unknown, since nothing was recorded" in to_svg(double_backward())
    assert "creators unknown" not in to_svg(layered(), layout="lanes")


@pytest.mark.parametrize("fold", ["auto", "module"])
def test_what_was_made_outside_the_recording_is_counted(fold: Any) -> None:
    early = (torch.ones(2, requires_grad=True) * 3).sin()
    with gradgraph.record():
        late = early.exp().sum()
    _, captions = subject_of(gradgraph.trace(late), fold=fold)
    assert captions[-1] == "2 of 4 operations were made outside the recording: no line, no module"
    with gradgraph.record():
        whole = (torch.ones(2, requires_grad=True) * 3).sum()
    assert not any("outside" in said for said in subject_of(gradgraph.trace(whole), fold=fold)[1])


@pytest.mark.parametrize("layout", ["lanes", "dot"])
def test_hostile_names_of_modules_stay_within_their_frames(layout: Any) -> None:
    names = ["</svg>", 'a<b&c"d', "new\nline", "x" * 10_000, "\ud800lone", "nul\0", "]]>", "\\N{x}|{y}"]
    net = torch.nn.Sequential()
    for name in names:
        net.add_module(name, torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Tanh()))
    with gradgraph.record():
        graph = gradgraph.trace(net(torch.ones(1, 1)).sum(), net)
    svg = to_svg(graph, fold="module", expand=names, layout=layout).encode()
    width = float(ElementTree.fromstring(svg).get("width", "").removesuffix("pt"))
    assert width < 1000
    source = to_dot(graph, fold="module", expand=names, layout=layout)
    assert source.encode()
    assert max(map(len, re.findall(r' label="[^"]*"', source))) < 200


@pytest.mark.parametrize("name", GALLERY)
def test_labels_stay_clear_of_boxes_and_each_other(name: str) -> None:
    graph = GALLERY[name]()
    picture = picture_of(graph, Show())
    for layout in ("dot", "lanes"):
        svg = svg_of(*placed(picture, layout, engine="auto", timeout=20.0, max_boxes=2500), LIGHT)
        patches = [bounds(one) for one in groups(svg, "label")]
        boxes = [bounds(one) for one in groups(svg, "node")]
        hits = sum(touch(patch, box) for patch in patches for box in boxes)
        hits += sum(touch(one, other) for index, one in enumerate(patches) for other in patches[:index])
        assert hits <= len(patches) // 12, (name, layout)


def bounds(group: ElementTree.Element) -> tuple[float, float, float, float]:
    numbers: list[float] = []
    for shape in group.iter():
        numbers += map(float, re.findall(r"-?\d+\.?\d*", shape.get("points") or shape.get("d") or ""))
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def touch(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width > 1.5 and height > 1.5


def test_the_same_view_gives_the_same_svg() -> None:
    assert to_svg(layered(), layout="lanes") == to_svg(layered(), layout="lanes")


@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=getattr(pytest.mark, f"needs_{name}")) for name in ("dot", "embedded")]
)
def test_what_leads_back_to_the_next_part_runs_up(engine: str) -> None:
    chain = [Spot(f"n{index}", 60, 30) for index in range(4)]
    links = [Link("n0", "n1"), Link("n1", "n2"), Link("n2", "n0"), Link("n2", "n3"), Link("n3", "n3"), Link("n1", "n2")]
    places = placed_by_dot(chain, links, engine=engine)
    heights = [places.centres[spot.key][1] for spot in chain]
    assert heights == sorted(heights, reverse=True)
    for link, route in zip(links, places.routes, strict=True):
        assert len(route) % 3 == 1
        for end, key in ((route[0], link.tail), (route[-1], link.head)):
            assert abs(end[0] - places.centres[key][0]) <= 31
            assert abs(end[1] - places.centres[key][1]) <= 16


def test_components_that_nothing_joins_stand_beside_each_other() -> None:
    graph = made([{"op": "A"}, {"op": "B"}, {"op": "C"}], [], roots=[0, 1, 2])
    picture, places = placed(picture_of(graph, Show()), "dot", engine="auto", timeout=20.0, max_boxes=100)
    assert len({round(places.centres[one.key][1]) for one in picture.boxes if one.category == "op"}) == 1


def test_lanes_need_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(import_module("gradgraph.render.engines"), "_package_folder", lambda name: None)
    assert len(groups(to_svg(double_backward()), "lane")) == 2


def test_every_box_of_the_layout_is_drawn_where_it_stands() -> None:
    picture, places = placed(pictured(), "lanes", engine="auto", timeout=20.0, max_boxes=2500)
    assert places == lanes(*_given(picture))
    drawn = {one.get("id"): bounds(one) for one in groups(svg_of(picture, places, LIGHT), "node")}
    left = {
        drawn[key][0] - (x - one.width / 2)
        for one in picture.boxes
        for key, (x, _) in [(one.key, places.centres[one.key])]
    }
    assert max(left) - min(left) < 0.2


def _given(picture: Picture) -> tuple[Any, Any]:
    spots = [
        Spot(one.key, one.width, one.height, one.order, one.creators, one.stub, one.clusters) for one in picture.boxes
    ]
    return spots, [Link(one.tail, one.head, one.role) for one in picture.arrows]
