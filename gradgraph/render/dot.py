"""A `Picture` in the DOT language: pure text, the same for the same picture, and one that old and new Graphviz read.

Boxes have a fixed size, computed from the shipped font, so that every engine lays out the same boxes whatever fonts
it knows. Every text is quoted here, whatever it contains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

from gradgraph.render.font import FONT_FAMILY, FONT_FAMILY_BOLD, text_width
from gradgraph.render.lines import format_number, printable
from gradgraph.render.measures import Measure
from gradgraph.render.picture import DETAIL_PT, HEAD_PT, Arrow, Box, Picture
from gradgraph.render.theme import Theme

__all__ = ["dot_of", "quoted"]

_LEGEND_WIDTH = 480.0  # points; longer legends take another row
_LEGEND_HEIGHT = 17.0
_LEGEND_GAP = 12.0

_SHAPES = {"leaf": "box", "op": "box", "custom": "note", "opaque": "box3d", "blocked": "octagon", "root": "box"}
_LEGEND_TEXTS = {
    "leaf": "leaf",
    "copy": "leaf, used again",
    "custom": "custom Function",
    "opaque": "opaque",
    "blocked": "not differentiable again",
}


def dot_of(picture: Picture, theme: Theme) -> str:
    """The picture as a DOT graph."""
    lines = [
        "digraph autograd {",
        f'  graph [rankdir=TB, bgcolor="{theme.background}", nodesep=0.17, ranksep=0.32, pad=0.15, '
        # The legend is a component of its own: packed above, it does not disturb the layout.
        'pack=14, packmode="array_u1"]',
        f"  node [fontname={quoted(FONT_FAMILY)}, fontsize={HEAD_PT:g}, fixedsize=true, margin=0, shape=box, "
        f'style="rounded,filled", fontcolor="{theme.text}"]',
        f'  edge [fontname={quoted(FONT_FAMILY)}, fontsize=8, color="{theme.gradient}", fontcolor="{theme.quiet}", '
        "arrowsize=0.6, labeldistance=1.8, labelangle=-24]",
        *_legend(picture, theme),
    ]
    if not picture.boxes:
        lines.append(
            f'  empty [shape=plaintext, style="", label="an empty graph", width=1.5, fontcolor="{theme.quiet}"]'
        )
    lines += (f"  {quoted(box.key)}{_list(_box(box, picture.measure, theme))}" for box in picture.boxes)
    leaves = {box.key for box in picture.boxes if box.category == "leaf"}
    lines += (
        f"  {quoted(arrow.tail)} -> {quoted(arrow.head)}{_list(_weight(arrow, leaves) | _arrow(arrow, theme))}"
        for arrow in picture.arrows
    )
    if not picture.connected:
        # Several components would be packed one by one, below each other.
        keys = " ".join(quoted(box.key) for box in picture.boxes)
        lines.append(f'  subgraph cluster_graph {{ graph [label="", style=invis]; {keys} }}')
    lines.append("}")
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    r"""`text` as a DOT string that shows exactly as it is: no escapes, entities, HTML or ports are read into it.

    >>> print(quoted('<lambda>:"\\n"'), quoted("a&amp;b"))
    "<lambda>:\"\\n\"" "a&amp;amp;b"
    """
    literal = text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{literal}"'


def _list(attributes: Mapping[str, str]) -> str:
    return " [" + ", ".join(f"{name}={value}" for name, value in attributes.items()) + "]" if attributes else ""


def _inches(points: float) -> str:
    return f"{points / 72:.3f}"


def _box(box: Box, measure: Measure | None, theme: Theme) -> dict[str, str]:
    label = "\\n".join(quoted(line.text)[1:-1] for line in box.lines)
    attributes = {"id": quoted(box.key), "label": f'"{label}"'}
    attributes |= {"width": _inches(box.width), "height": _inches(box.height)}
    if box.full is not None:
        attributes["tooltip"] = quoted(box.full).replace("\n", "\\n")
    return attributes | _look(box, measure, theme)


def _look(box: Box, measure: Measure | None, theme: Theme) -> dict[str, str]:
    """Shape and colours."""
    fill, border = theme.order(box.order)
    look = {}
    if box.category in ("leaf", "root", "opaque", "blocked", "custom"):
        look = {"shape": _SHAPES[box.category], "style": "filled"}
    if box.category == "leaf":
        fill, border = theme.leaf
        look |= {"style": '"filled,dashed"'} if box.copy else {"penwidth": "1.5"}
    elif box.category == "root":
        fill, border = theme.root[0], theme.root[0]
        look |= {"style": '"rounded,filled"', "fontcolor": f'"{theme.root[1]}"'}
    elif box.category == "opaque":
        fill, border = theme.opaque
    elif box.category == "custom":
        look |= {"penwidth": "1.5"}
    if measure is not None and box.category != "root":
        fill = theme.background if box.measure is None else _shade(box.measure, measure, theme)
    if box.alert:
        fill, border = theme.alert_fill, theme.alert
        look |= {"penwidth": "2.2"}
    return look | {"fillcolor": f'"{fill}"', "color": f'"{border}"'}


def _shade(value: float, measure: Measure, theme: Theme) -> str:
    scale = theme.diverging if measure.scale == "signed" else theme.sequence
    place = measure.place(value)
    if place != place:
        return theme.alert_fill
    return scale[min(max(int(place * len(scale)), 0), len(scale) - 1)]


def _weight(arrow: Arrow, leaves: set[str]) -> dict[str, str]:
    """Gradient edges between operations weigh more: chains of them stand straight, leaves and curvature beside them.

    A chain of 1,000 operations on one weight is 300 points wide instead of 55,000.
    """
    return {"weight": "2"} if arrow.role == "gradient" and arrow.head not in leaves else {}


def _arrow(arrow: Arrow, theme: Theme) -> dict[str, str]:
    look = {}
    if arrow.role == "curvature":
        look = {"color": f'"{theme.curvature}"', "style": "dashed", "penwidth": "1.5"}
    elif arrow.role == "mark":
        look = {"color": f'"{theme.root[0]}"', "penwidth": "1.5"}
    if arrow.label:
        look["taillabel"] = quoted(arrow.label).replace("\n", "\\n")
        if len(arrow.label) > 4:
            look |= {"labeldistance": "2.8", "labelangle": "-66"}
    return look


def _legend(picture: Picture, theme: Theme) -> Iterator[str]:
    """A strip above the graph: the title, and one example of each thing that occurs."""
    entries = [*_legend_boxes(picture, theme), *_legend_arrows(picture, theme)]
    scale = [] if picture.measure is None else [*_legend_scale(picture.measure, theme)]
    if not entries and picture.title is None:
        return
    title = quoted(printable(picture.title or ""))
    yield "  subgraph cluster_legend {"
    yield (
        f'    graph [label={title}, fontname={quoted(FONT_FAMILY_BOLD)}, fontsize=13, fontcolor="{theme.text}", '
        f'sortv=1, color="{theme.background}", margin=4]'
    )
    yield f'    node [fontsize={DETAIL_PT:g}, height={_inches(_LEGEND_HEIGHT)}, fontcolor="{theme.quiet}"]'
    rows: list[list[str]] = [[]]
    used = 0.0
    whole = sum(width + _LEGEND_GAP for _, _, width, _ in entries)
    # Rows of like width: none is left with a single entry.
    most = whole / math.ceil(whole / _LEGEND_WIDTH) if entries else _LEGEND_WIDTH
    for first, last, width, statements in (*entries, *scale):
        if used and (used + width / 2 > most or first == "measure"):
            rows.append([])
            used = 0.0
        used += width + _LEGEND_GAP
        rows[-1] += [first] if first == last else [first, last]
        yield from (f"    {statement}" for statement in statements)
    for row in rows:
        links = "; ".join(f"{a} -> {b} [style=invis]" for a, b in pairwise(row) if not _joined(a, b))
        yield f"    {{ rank=same; {'; '.join(row)}{'; ' + links if links else ''} }}"
    yield from (f"    {a[0]} -> {b[0]} [style=invis]" for a, b in pairwise(rows))
    if not entries:
        yield '    key0 [style=invis, width=0.1, height=0.1, label=""]'
    yield "  }"


def _joined(a: str, b: str) -> bool:
    return a.startswith("from_") and b == "to_" + a.removeprefix("from_")


_Entry = tuple[str, str, float, list[str]]


def _legend_boxes(picture: Picture, theme: Theme) -> Iterator[_Entry]:
    examples: dict[str, Box] = {}
    for box in picture.boxes:
        kind = "copy" if box.copy else box.category
        if kind in _LEGEND_TEXTS:
            examples.setdefault(_LEGEND_TEXTS[kind], box)
        if kind in ("op", "custom"):
            examples.setdefault(f"order {box.order}" if box.order < 4 else "order 4 and above", box)
    places = list(_LEGEND_TEXTS.values())
    order_first = sorted(
        examples.items(), key=lambda item: (places.index(item[0]) if item[0] in places else -1, item[0])
    )
    for index, (text, box) in enumerate(order_first):
        width = text_width(text, DETAIL_PT) + (
            44 if box.category == "blocked" else 20 if box.category in ("custom", "opaque") else 14
        )
        category = "op" if text.startswith("order") else box.category
        shown = Box("", (), category, box.order, width, 0, copy=box.copy, alert=category == "blocked")
        look = _look(shown, picture.measure, theme) | {"label": quoted(text), "width": _inches(width)}
        if text.startswith("order"):
            look["fontcolor"] = f'"{theme.text}"'
        yield f"key{index}", f"key{index}", width, [f"key{index}{_list(look)}"]


def _legend_scale(measure: Measure, theme: Theme) -> Iterator[_Entry]:
    """The fills of the measure, the lowest and highest value written on the first and the last."""
    fills = theme.diverging if measure.scale == "signed" else theme.sequence
    texts = [format_number(measure.low), *[""] * (len(fills) - 2), format_number(measure.high)]
    width = text_width(measure.label, DETAIL_PT) + 6
    name = {"label": quoted(measure.label), "shape": "plaintext", "style": '""', "width": _inches(width)}
    yield "measure", "measure", width, [f"measure{_list(name)}"]
    for index, (fill, text) in enumerate(zip(fills, texts, strict=True)):
        wide = max(text_width(text, DETAIL_PT) + 12, 24.0)
        look = {"label": quoted(text), "style": "filled", "fillcolor": f'"{fill}"', "color": f'"{theme.quiet}"'}
        look |= {"width": _inches(wide), "fontcolor": f'"{theme.text}"'}
        yield f"shade{index}", f"shade{index}", wide, [f"shade{index}{_list(look)}"]


def _legend_arrows(picture: Picture, theme: Theme) -> Iterator[_Entry]:
    roles = {arrow.role for arrow in picture.arrows}
    for role in ("gradient", "curvature"):
        if role in roles:
            width = text_width(role, DETAIL_PT) + 10
            text = {"label": quoted(role), "shape": "plaintext", "style": '""', "width": _inches(width)}
            look = _arrow(Arrow("", "", role), theme) | {"minlen": "2"}
            yield (
                f"from_{role}",
                f"to_{role}",
                width + 30,
                [
                    f'from_{role} [shape=point, style=invis, width=0.01, height=0.01, label=""]',
                    f"to_{role}{_list(text)}",
                    f"from_{role} -> to_{role}{_list(look)}",
                ],
            )
