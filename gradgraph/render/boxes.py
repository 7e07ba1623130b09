"""Boxes as SVG: the shape of each kind, its colours, and its lines of text."""

from __future__ import annotations

import math
from html import escape

from gradgraph.render.font import text_width
from gradgraph.render.lines import Line
from gradgraph.render.measures import Measure
from gradgraph.render.picture import BADGE_GAP, DETAIL_PT, HEAD_PT, LINE_PT, STACK_PT, Box, badge_width
from gradgraph.render.shapes import Place, octagon, polygon, rectangle, rounded, text
from gradgraph.render.theme import Theme

__all__ = ["badge", "drawn_box", "outline", "shade"]

_CORNER = 8.0
_FOLD = 7.0  # the folded corner of a note, the depth of a cube
_BASELINE = 3.4  # below the middle of a line


def drawn_box(box: Box, centre: Place, measure: Measure | None, theme: Theme) -> str:
    """One box as a group, at a place with y downwards."""
    x, y = centre
    half_width, half_height = box.width / 2, box.height / 2
    title = f"<title>{escape(box.full, quote=False)}</title>" if box.full is not None else ""
    parts = [f'<g id="{escape(box.key)}" class="node">{title}']
    parts += outline(box, x - half_width, y - half_height, x + half_width, y + half_height, measure, theme)
    if box.category == "folded":
        x, y = x - STACK_PT / 2, y - STACK_PT / 2
    elif box.category == "opaque":
        x, y = x - _FOLD / 2, y + _FOLD / 2
    parts += _texts(box, x, y, theme)
    parts.append("</g>")
    return "".join(parts)


def outline(
    box: Box, left: float, top: float, right: float, bottom: float, measure: Measure | None, theme: Theme
) -> list[str]:
    """The shape of a box without its text."""
    fill, border, width = _colours(box, measure, theme)
    if box.category == "folded":
        step = min(STACK_PT / 2, (bottom - top) / 8)
        card = theme.card(fill)
        front = (right - 2 * step, bottom - 2 * step)
        corner, dash = (0.5, "4,2.5" if box.copy else "") if box.leaf else (_CORNER, "")
        return [
            rounded(left + 2 * step, top + 2 * step, right, bottom, corner, card, border, 0.8),
            rounded(left + step, top + step, right - step, bottom - step, corner, card, border, 0.8),
            rounded(left, top, *front, corner, fill, border, width, dash),
        ]
    if box.category == "leaf":
        return [rectangle(left, top, right, bottom, fill, border, width, "4,2.5" if box.copy else "")]
    if box.category == "blocked":
        return [octagon(left, top, right, bottom, fill, border, width)]
    if box.category == "custom":
        flap = [(right - _FOLD, top), (right - _FOLD, top + _FOLD), (right, top + _FOLD)]
        sides = [(left, top), flap[0], flap[2], (right, bottom), (left, bottom)]
        return [polygon(sides, fill, border, width), polygon(flap, theme.card(fill), border, 1.0)]
    if box.category == "opaque":
        depth = min(_FOLD, (bottom - top) / 3)
        roof = [(left, top + depth), (left + depth, top), (right, top), (right - depth, top + depth)]
        side = [(right, top), (right, bottom - depth), (right - depth, bottom), (right - depth, top + depth)]
        card = theme.card(fill)
        return [
            rectangle(left, top + depth, right - depth, bottom, fill, border, width),
            polygon(roof, card, border, width),
            polygon(side, card, border, width),
        ]
    return [rounded(left, top, right, bottom, _CORNER, fill, border, width)]


def shade(value: float, measure: Measure, theme: Theme) -> str:
    """The fill for a value of the measure."""
    place = measure.place(value)
    if place != place:
        return theme.alert_fill
    if measure.scale == "signed":
        # Zero alone is neutral: a small part must not look like none.
        middle = len(theme.diverging) // 2
        steps = 0 if value == 0 else max(1, math.ceil(min(abs(2 * place - 1), 1.0) * middle))
        return theme.diverging[middle + (steps if value > 0 else -steps)]
    scale = theme.sequence
    return scale[min(max(int(place * len(scale)), 0), len(scale) - 1)]


def badge(times: int, left: float, middle: float, fill: str, color: str) -> list[str]:
    """The pill `×12`, from `left` on, around the height `middle`."""
    width = badge_width(times)
    words = text(f"×{times:,}", left + width / 2, middle + 3.6, HEAD_PT, color, bold=True)
    return [rounded(left, middle - 6, left + width, middle + 6, 6, fill), words]


def _colours(box: Box, measure: Measure | None, theme: Theme) -> tuple[str, str, float]:
    """Fill, border, and the border's width."""
    fill, border = theme.order(box.order)
    width = 1.0
    if box.leaf or box.category == "leaf":
        fill, border = theme.leaf
        width = 1.0 if box.copy else 1.5
    elif box.category == "root":
        return theme.root[0], theme.root[0], width
    elif box.category == "opaque":
        fill, border = theme.opaque
    elif box.category == "custom":
        width = 1.5
    elif box.category == "folded":
        width = 1.2
    if measure is not None:
        fill = theme.background if box.measure is None else shade(box.measure, measure, theme)
    if box.alert:
        fill, border, width = theme.alert_fill, theme.alert, 2.2
    elif box.focus:
        width = 3.0
    return fill, border, width


def _texts(box: Box, x: float, y: float, theme: Theme) -> list[str]:
    first = y - (len(box.lines) - 1) * LINE_PT / 2
    parts = []
    for index, line in enumerate(box.lines):
        middle = first + index * LINE_PT
        if index == 0 and box.times > 1:
            pill = badge_width(box.times)
            head = text_width(line.text, HEAD_PT, bold=True)
            left = x - (head + BADGE_GAP + pill) / 2
            parts.append(_line(line, left + head / 2, middle + _BASELINE, box, theme))
            border = theme.alert if box.alert else theme.leaf[1] if box.leaf else theme.order(box.order)[1]
            parts += badge(box.times, left + head + BADGE_GAP, middle, border, theme.background)
        else:
            parts.append(_line(line, x, middle + _BASELINE, box, theme))
    return parts


def _line(line: Line, x: float, y: float, box: Box, theme: Theme) -> str:
    if line.role == "head":
        color = theme.root[1] if box.category == "root" else theme.text
        return text(line.text, x, y, HEAD_PT, color, bold=True)
    color = {"detail": theme.quiet, "note": theme.note, "alert": theme.alert}[line.role]
    return text(line.text, x, y, DETAIL_PT, color, bold=line.role == "alert")
