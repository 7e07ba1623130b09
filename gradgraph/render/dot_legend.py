"""The legend of a picture in the DOT language: a strip above the graph, for programs that lay it out themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from gradgraph.render.dot_looks import arrow_attributes, box_look, inches, listed, quoted
from gradgraph.render.font import FONT_FAMILY_BOLD, text_width
from gradgraph.render.legend import KINDS, examples
from gradgraph.render.lines import format_number, printable
from gradgraph.render.measures import Measure
from gradgraph.render.picture import DETAIL_PT, Arrow, Box, Picture
from gradgraph.render.theme import Theme

__all__ = ["legend"]

_LEGEND_WIDTH = 480.0  # points; longer legends take another row
_LEGEND_HEIGHT = 17.0
_LEGEND_GAP = 12.0


def legend(picture: Picture, theme: Theme) -> Iterator[str]:
    """A strip above the graph: the title, and one example of each thing that occurs."""
    entries = [*_legend_boxes(picture, theme), *_legend_arrows(picture, theme)]
    scale = [] if picture.measure is None else [*_legend_scale(picture.measure, theme)]
    if not entries and picture.title is None and not picture.captions:
        return
    said = [*([] if picture.title is None else [picture.title]), *picture.captions]
    title = quoted("\n".join(map(printable, said))).replace("\n", "\\n")
    yield "  subgraph cluster_legend {"
    yield (
        f'    graph [label={title}, fontname={quoted(FONT_FAMILY_BOLD)}, fontsize=13, fontcolor="{theme.text}", '
        f'sortv=1, color="{theme.background}", margin=4]'
    )
    yield f'    node [fontsize={DETAIL_PT:g}, height={inches(_LEGEND_HEIGHT)}, fontcolor="{theme.quiet}"]'
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
    orders, kinds = examples(picture)
    shown = [("order", f"order {order}" if order < 4 else "order 4 and above", box) for order, box in orders.items()]
    shown += [(kind, KINDS[kind], box) for kind, box in kinds.items()]
    for index, (kind, text, box) in enumerate(shown):
        extra = 44 if kind == "blocked" else 20 if kind in ("custom", "opaque") else 14
        width = text_width(text, DETAIL_PT) + extra
        category = "op" if kind == "order" else "leaf" if kind in ("leaf", "copy") else kind
        leaf = category in ("leaf", "folded") and box.leaf
        one = Box("", (), category, box.order, width, 0, copy=box.copy, alert=kind == "blocked", leaf=leaf)
        look = box_look(one, picture.measure, theme) | {"label": quoted(text), "width": inches(width)}
        if kind == "order":
            look["fontcolor"] = f'"{theme.text}"'
        yield f"key{index}", f"key{index}", width, [f"key{index}{listed(look)}"]


def _legend_scale(measure: Measure, theme: Theme) -> Iterator[_Entry]:
    """The fills of the measure, the lowest and highest value written on the first and the last, and zero on its own."""
    fills = theme.diverging if measure.scale == "signed" else theme.sequence
    texts = [format_number(measure.low), *[""] * (len(fills) - 2), format_number(measure.high)]
    if measure.scale == "signed":
        texts[len(fills) // 2] = "0"
    width = text_width(measure.label, DETAIL_PT) + 6
    name = {"label": quoted(measure.label), "shape": "plaintext", "style": '""', "width": inches(width)}
    yield "measure", "measure", width, [f"measure{listed(name)}"]
    for index, (fill, text) in enumerate(zip(fills, texts, strict=True)):
        wide = max(text_width(text, DETAIL_PT) + 12, 24.0)
        look = {"label": quoted(text), "style": "filled", "fillcolor": f'"{fill}"', "color": f'"{theme.quiet}"'}
        look |= {"width": inches(wide), "fontcolor": f'"{theme.text}"'}
        yield f"shade{index}", f"shade{index}", wide, [f"shade{index}{listed(look)}"]


def _legend_arrows(picture: Picture, theme: Theme) -> Iterator[_Entry]:
    roles = {arrow.role for arrow in picture.arrows}
    for role in ("gradient", "curvature"):
        if role in roles:
            width = text_width(role, DETAIL_PT) + 10
            text = {"label": quoted(role), "shape": "plaintext", "style": '""', "width": inches(width)}
            look = arrow_attributes(Arrow("", "", role), theme) | {"minlen": "2"}
            yield (
                f"from_{role}",
                f"to_{role}",
                width + 30,
                [
                    f'from_{role} [shape=point, style=invis, width=0.01, height=0.01, label=""]',
                    f"to_{role}{listed(text)}",
                    f"from_{role} -> to_{role}{listed(look)}",
                ],
            )
