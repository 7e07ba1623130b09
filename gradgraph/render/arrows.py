"""Arrows as SVG: lines whose width tells how many edges they stand for, and small heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradgraph.render.picture import Arrow
from gradgraph.render.shapes import Place, curve, polygon
from gradgraph.render.theme import Theme

__all__ = ["arrow_look", "drawn_arrow", "label_of"]


def arrow_look(role: str, count: int, theme: Theme) -> tuple[str, float, str]:
    """Colour, width and dashes of a line."""
    if role == "curvature":
        return theme.curvature, min(1.0 + 0.35 * math.log10(count), 2.0), "4,2.2"
    if role == "mark":
        return theme.root[0], 1.5, ""
    return theme.gradient, min(1.0 + 0.6 * math.log10(count), 2.8), ""


def drawn_arrow(arrow: Arrow, route: Sequence[Place], theme: Theme) -> str:
    """The line along `route`, 3n + 1 Bezier points, and its head."""
    color, width, dash = arrow_look(arrow.role, arrow.count, theme)
    length = 5.0 + 1.6 * width
    line, back, tip = _cut(route, length)
    head = _head(back, tip, 1.6 + 1.1 * width, color)
    return curve(line, color, round(width, 2), dash) + head


def label_of(arrow: Arrow) -> str:
    """What stands beside an arrow: its slots, and how many edges it is."""
    count = f"×{arrow.count:,}" if arrow.count > 1 and not arrow.plain else ""
    return f"{arrow.label} {count}".strip()


def _cut(route: Sequence[Place], length: float) -> tuple[list[Place], Place, Place]:
    """The route without its last bit, where the head goes; the head's back and tip."""
    tip = route[-1]
    before = next((point for point in reversed(route[:-1]) if math.dist(point, tip) > 0.5), route[0])
    far = math.dist(before, tip) or 1.0
    length = min(length, math.dist(route[0], tip) * 0.6 or 1.0)
    ux, uy = (tip[0] - before[0]) / far, (tip[1] - before[1]) / far
    back = (tip[0] - ux * length, tip[1] - uy * length)
    line = [*route[:-1], back]
    if math.dist(route[-2], tip) < length:
        line[-2] = back
    return line, back, tip


def _head(back: Place, tip: Place, half: float, color: str) -> str:
    far = math.dist(back, tip) or 1.0
    nx, ny = -(tip[1] - back[1]) / far * half, (tip[0] - back[0]) / far * half
    return polygon((tip, (back[0] + nx, back[1] + ny), (back[0] - nx, back[1] - ny)), color)
