"""Graphviz draws a layout as it stands, in either engine: boxes, ways and frames, and nothing moved."""

from __future__ import annotations

import re

import pytest

from gradgraph.layout import Link, Placed, Spot, cut, lanes
from gradgraph.render.image import draw

ENGINES = [
    pytest.param("dot", marks=pytest.mark.needs_dot),
    pytest.param("embedded", marks=pytest.mark.needs_embedded),
]
_SPOTS = [
    Spot("loss", 60, 30),
    Spot("mm", 80, 30, clusters=("layer",)),
    Spot("w", 40, 20, stub=True, clusters=("layer",)),
    Spot("in", 60, 30),
    Spot("gradient", 90, 30, 1, (("mm", 1.0),)),
]
_LINKS = [
    Link("loss", "mm"),
    Link("mm", "w"),
    Link("mm", "in"),
    Link("loss", "in"),
    Link("gradient", "mm", "curvature"),
]


def dot(placed: Placed) -> str:
    lines = ["digraph { graph [outputorder=edgesfirst, pad=0] node [shape=box, fixedsize=true]"]
    for spot in _SPOTS:
        size = f"width={spot.width / 72:.4f}, height={spot.height / 72:.4f}"
        lines.append(f'"{spot.key}" [id="{spot.key}", pos="{_text(placed.centres[spot.key])}", {size}]')
    for number, (link, route) in enumerate(zip(_LINKS, placed.routes, strict=True)):
        way = " ".join(map(_text, cut(route, 6)))
        lines.append(f'"{link.tail}" -> "{link.head}" [id=e{number}, pos="e,{_text(route[-1])} {way}"]')
    for number, frame in enumerate(placed.frames):
        keys = " ".join(f'"{spot.key}"' for spot in _SPOTS if frame.cluster in spot.clusters)
        corners = f"{frame.left:.2f},{frame.bottom:.2f},{frame.right:.2f},{frame.top:.2f}"
        lines.append(f'subgraph cluster_{number} {{ graph [id="frame", bb="{corners}"] {keys} }}')
    return "\n".join([*lines, "}"])


def _text(point: tuple[float, float]) -> str:
    return f"{point[0]:.2f},{point[1]:.2f}"


def numbers(svg: str, name: str, attribute: str) -> list[float]:
    group = re.search(rf'<g id="{name}".*?</g>', svg, re.DOTALL)
    assert group is not None
    found = re.search(rf' {attribute}="([^"]*)"', group[0])
    assert found is not None
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", found[1])]


@pytest.mark.parametrize("engine", ENGINES)
def test_graphviz_draws_at_the_places_given(engine: str) -> None:
    placed = lanes(_SPOTS, _LINKS)
    assert [frame.cluster for frame in placed.frames] == ["layer"]
    svg = draw(dot(placed), "svg", engine=engine, layout="nop2")
    text = svg.decode()
    outline = numbers(text, "loss", "points")
    x, y = placed.centres["loss"]
    # Graphviz counts from the left and lowest thing drawn, and y downwards.
    dx = (min(outline[::2]) + max(outline[::2])) / 2 - x
    dy = (min(outline[1::2]) + max(outline[1::2])) / 2 + y
    for number, route in enumerate(placed.routes):
        drawn = numbers(text, f"e{number}", "d")
        expected = [value for u, v in cut(route, 6) for value in (u + dx, dy - v)]
        assert drawn == pytest.approx(expected, abs=0.6), "2.43 rounds to whole points"
    frame, corners = placed.frames[0], numbers(text, "frame", "points")
    assert [min(corners[::2]), max(corners[::2])] == pytest.approx([frame.left + dx, frame.right + dx], abs=0.6)
    assert [min(corners[1::2]), max(corners[1::2])] == pytest.approx([dy - frame.top, dy - frame.bottom], abs=0.6)
