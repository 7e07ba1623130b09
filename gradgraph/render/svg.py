"""A placed `Picture` as SVG: lanes behind, then frames, arrows, boxes, and labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

from gradgraph.layout.spots import Frame, Lane, Placed
from gradgraph.render.arrows import drawn_arrow
from gradgraph.render.boxes import drawn_box
from gradgraph.render.font import FONT_FAMILY, text_width
from gradgraph.render.legend import heading
from gradgraph.render.lettering import labels
from gradgraph.render.lines import shorten
from gradgraph.render.picture import Cluster, Picture
from gradgraph.render.shapes import Place, rectangle, rounded, text
from gradgraph.render.theme import Theme

__all__ = ["svg_of"]

_MARGIN = 12.0
_BELOW_HEADING = 14.0
_LANE_PT = 11.0
_FRAME_PT = 8.5
_LANE_PAD = 8.0
#: Up to this width, in points, the heading stands in the middle; above, the eye begins at the left.
_CENTRED = 900.0

#: What each order is, where its lane has room to say so.
_LANE_NAMES = ("forward", "its gradient", "second derivatives", "third derivatives", "fourth derivatives")


def svg_of(picture: Picture, placed: Placed, theme: Theme) -> str:
    """The picture as a whole SVG document of its own size, in points. Linear in boxes and arrows."""
    centred = placed.width <= _CENTRED
    lanes = [lane for lane in placed.lanes if len(placed.lanes) > 1]
    head = heading(picture, theme, placed.width, lanes=bool(lanes), centred=centred)
    wide = max(placed.width, head.width)
    left = _MARGIN + ((wide - placed.width) / 2 if centred else 0.0)
    top = _MARGIN + head.height + (_BELOW_HEADING if head.parts else 0.0)
    # A single lane has no name, and needs no room for it.
    spare = 0.0 if lanes else _spare(picture, placed)
    width, height = math.ceil(wide + 2 * _MARGIN), math.ceil(top + placed.height - spare + _MARGIN)

    def at(point: Place) -> Place:
        return left + point[0], top + placed.height - spare - point[1]

    parts = [
        f'<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n<svg width="{width}pt" height="{height}pt" '
        f'viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">\n'
        f'<g id="graph0" class="graph" font-family="{FONT_FAMILY}">',
        rectangle(0, 0, width, height, theme.background),
    ]
    if head.parts:
        moved = f'transform="translate({_MARGIN:g} {_MARGIN:g})"'
        parts.append(f'<g class="heading" {moved}>{"".join(head.parts)}</g>')
    highest: dict[int, int] = {}
    for box in picture.boxes if lanes else ():
        highest[box.order] = max(highest.get(box.order, 0), box.highest or box.order)
    parts += (_lane(lane, highest.get(lane.order, lane.order), at, placed.height, theme) for lane in lanes)
    named = {cluster.name: cluster for cluster in picture.clusters}
    frames = [_frame(frame, named[frame.cluster], at, theme) for frame in placed.frames if frame.cluster in named]
    parts += (frame for frame, _, _ in frames)
    routes = [[at(point) for point in route] for route in placed.routes]
    drawn = sorted(zip(picture.arrows, routes, strict=True), key=lambda pair: pair[0].role != "curvature")
    for arrow, route in drawn:
        if len(route) >= 4:
            ends = f"<title>{escape(arrow.tail)}→{escape(arrow.head)}</title>"
            parts.append(f'<g class="edge {arrow.role}">{ends}{drawn_arrow(arrow, route, theme)}</g>')
    boxes = [(box, at(placed.centres[box.key])) for box in picture.boxes]
    parts += (drawn_box(box, centre, picture.measure, theme) for box, centre in boxes)
    parts += (name for _, name, _ in frames)
    parts += labels(picture.arrows, routes, boxes, [place for _, _, place in frames], theme)
    if not picture.boxes:
        parts.append(text("an empty graph", width / 2, height / 2, 10, theme.quiet))
    return "\n".join([*parts, "</g>\n</svg>\n"])


def _spare(picture: Picture, placed: Placed) -> float:
    """The empty height above all that is drawn."""
    tops = [placed.centres[box.key][1] + box.height / 2 for box in picture.boxes]
    tops += [frame.top for frame in placed.frames]
    tops += [y for route in placed.routes for _, y in route]
    return max(placed.height - max(tops) - 2, 0.0) if tops else 0.0


def _lane(lane: Lane, highest: int, at: Callable[[Place], Place], height: float, theme: Theme) -> str:
    """The strip behind an order's boxes, with its name. Boxes of equal parts may climb through higher orders."""
    (left, bottom), (right, top) = at((lane.left - _LANE_PAD, 0.0)), at((lane.right + _LANE_PAD, height))
    words = f"order {lane.order}" if highest == lane.order else f"orders {lane.order} to {highest}"
    if lane.order < len(_LANE_NAMES):
        longer = f"{words} · {_LANE_NAMES[lane.order]}"
        words = longer if text_width(longer, _LANE_PT, bold=True) <= right - left - 12 else words
    x, y = at(lane.label)
    name = text(words, x, y + 3.8, _LANE_PT, theme.text, bold=True)
    return f'<g class="lane">{rounded(left, top, right, bottom, 10, theme.lane(lane.order))}{name}</g>'


def _frame(
    frame: Frame, cluster: Cluster, at: Callable[[Place], Place], theme: Theme
) -> tuple[str, str, tuple[float, float, float, float]]:
    """The quiet rectangle around a cluster's boxes; its name, cut to the frame's width; and where the name stands."""
    (left, bottom), (right, top) = at((frame.left, frame.bottom)), at((frame.right, frame.top))
    x, y = at(frame.label)
    times = f" ×{cluster.times:,}" if cluster.times > 1 else ""
    room = right - x - 4
    words, most = cluster.label, 61
    while (width := text_width(words + times, _FRAME_PT, bold=True)) > room and most > 4:
        most -= 2
        words = shorten(cluster.label, most)
    around = rounded(left, top, right, bottom, 7, theme.text, theme.gradient, 0.7, opacity=0.035)
    place = (x - 1, y - 7.5, x + width + 1, y + 2.5)
    name = text(words + times, x, y, _FRAME_PT, theme.quiet, bold=True, anchor="start")
    title = f"<title>{escape(cluster.label, quote=False)}</title>"
    patch = rounded(*place, 2, theme.background, opacity=0.6)
    return f'<g class="cluster">{title}{around}</g>', f'<g class="label">{title}{patch}{name}</g>', place
