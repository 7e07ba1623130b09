"""The head of a picture: its title, captions, and an example of each thing that occurs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradgraph.render.arrows import drawn_arrow
from gradgraph.render.boxes import badge, outline
from gradgraph.render.font import text_width
from gradgraph.render.lines import printable
from gradgraph.render.measures import Measure
from gradgraph.render.picture import DETAIL_PT, Arrow, Box, Picture, badge_width
from gradgraph.render.shapes import rectangle, text
from gradgraph.render.theme import Theme

__all__ = ["KINDS", "Heading", "examples", "heading"]

TITLE_PT = 13.0
_ROW = 18.0
_GAP = 16.0
_SWATCH = (22.0, 12.0)
_BESIDE = 5.0  # between an example and its words

#: What the legend calls each category of boxes, in its order.
KINDS = {
    "leaf": "leaf",
    "copy": "leaf, used again",
    "folded": "folded: many nodes",
    "custom": "custom Function",
    "opaque": "opaque",
    "blocked": "not differentiable again",
}


@dataclass(frozen=True)
class Heading:
    """What stands above the drawing: its elements with y downwards from 0, and its size."""

    parts: list[str]
    width: float
    height: float


@dataclass(frozen=True)
class _Entry:
    """One example: its width, and the words beside it."""

    kind: str
    words: str
    width: float
    box: Box | None = None
    arrow: Arrow | None = None

    @property
    def whole(self) -> float:
        return self.width + _BESIDE + text_width(self.words, DETAIL_PT)


def heading(picture: Picture, theme: Theme, width: float, *, lanes: bool, centred: bool) -> Heading:
    """The head of a picture, in rows that are as wide as `width` if need be.

    Args:
        picture: what is drawn below.
        theme: its colours.
        width: of the drawing, in points.
        lanes: whether lanes tell the orders, so that the legend need not.
        centred: whether rows stand in the middle, rather than at the left.
    """
    rows = _rows([*_kinds(picture, lanes=lanes), *_arrows(picture)], width)
    title = [] if picture.title is None else [printable(picture.title)]
    widths = [text_width(line, TITLE_PT, bold=True) for line in title]
    widths += [text_width(line, DETAIL_PT) for line in picture.captions]
    widths += [_row_width(row) for row in rows]
    if picture.measure is not None:
        widths.append(_bar_width(picture.measure))
    width = max([*widths, width])
    parts: list[str] = []
    y = 0.0

    def start(row: float) -> float:
        return (width - row) / 2 if centred else 0.0

    anchor, x = ("middle", width / 2) if centred else ("start", 0.0)
    for line in title:
        parts.append(text(line, x, y + 13, TITLE_PT, theme.text, bold=True, anchor=anchor))
        y += 20
    for line in picture.captions:
        parts.append(text(line, x, y + 9, DETAIL_PT, theme.quiet, anchor=anchor))
        y += 13
    y += 4 if picture.captions and rows else 0
    for row in rows:
        at = start(_row_width(row))
        for entry in row:
            parts += _drawn(entry, at, y + _ROW / 2, theme)
            at += entry.whole + _GAP
        y += _ROW
    if picture.measure is not None:
        parts += _bar(picture.measure, start(_bar_width(picture.measure)), y + 3, theme)
        y += 30
    return Heading(parts, width if parts else 0.0, y)


def _rows(entries: list[_Entry], width: float) -> list[list[_Entry]]:
    """Rows of like width: none is left with a single entry."""
    if not entries:
        return []
    whole = _row_width(entries)
    count = max(1, -(-int(whole) // int(max(width, 480.0))))
    rows: list[list[_Entry]] = [[]]
    for entry in entries:
        used = _row_width(rows[-1])
        if rows[-1] and used + _GAP + entry.whole / 2 > whole / count and len(rows) < count:
            rows.append([])
        rows[-1].append(entry)
    return rows


def _row_width(row: list[_Entry]) -> float:
    return sum(entry.whole for entry in row) + _GAP * max(len(row) - 1, 0)


def examples(picture: Picture) -> tuple[dict[int, Box], dict[str, Box]]:
    """A box of each order, those of 4 and above as one, and one of each kind of `KINDS` that occurs, in its order."""
    orders: dict[int, Box] = {}
    kinds: dict[str, Box] = {}
    for box in picture.boxes:
        if box.leaf or box.category == "leaf":
            kinds.setdefault("copy" if box.copy else "leaf", box)
        else:
            kinds.setdefault(box.category, box)
            if box.category in ("op", "custom", "folded"):
                orders.setdefault(min(box.order, 4), box)
    folded_leaf = next((box for box in picture.boxes if box.category == "folded"), None)
    if folded_leaf is not None:
        kinds.setdefault("folded", folded_leaf)
    return dict(sorted(orders.items())), {kind: kinds[kind] for kind in KINDS if kind in kinds}


def _kinds(picture: Picture, *, lanes: bool) -> Iterator[_Entry]:
    orders, kinds = examples(picture)
    if not lanes and picture.measure is None:
        for order, box in orders.items():
            words = f"order {order}" if order < 4 else "order 4 and above"
            yield _Entry("order", words, _SWATCH[0], _example(box, "op"))
    for kind, box in kinds.items():
        example = _example(box, "leaf" if kind in ("leaf", "copy") else kind)
        yield _Entry(kind, KINDS[kind], _SWATCH[0], example)
    times = max((box.times for box in picture.boxes), default=1)
    if times > 1:
        badge = Box("", (), "badge", 0, 0, 0, times=times)
        yield _Entry("badge", "that many times the same", badge_width(times), badge)


def _example(box: Box, category: str) -> Box:
    """A box of that category without text, as small as a swatch."""
    width, height = _SWATCH
    return Box("", (), category, box.order, width, height, copy=box.copy, alert=category == "blocked", leaf=box.leaf)


def _arrows(picture: Picture) -> Iterator[_Entry]:
    roles = {arrow.role for arrow in picture.arrows}
    for role in ("gradient", "curvature"):
        if role in roles:
            yield _Entry("arrow", role, 30.0, arrow=Arrow("", "", role))
    labelled = [arrow for arrow in picture.arrows if not arrow.plain]
    count = max((arrow.count for arrow in labelled), default=1)
    if count > 1:
        yield _Entry("arrow", f"×{count:,}: that many edges", 30.0, arrow=Arrow("", "", count=count))


def _drawn(entry: _Entry, x: float, middle: float, theme: Theme) -> Iterator[str]:
    if entry.arrow is not None:
        ends = [(x, middle), (x + 10, middle), (x + 20, middle), (x + entry.width, middle)]
        yield drawn_arrow(entry.arrow, ends, theme)
    elif entry.kind == "badge" and entry.box is not None:
        yield from badge(entry.box.times, x, middle, theme.quiet, theme.background)
    elif entry.box is not None:
        half = entry.box.height / 2
        yield from outline(entry.box, x, middle - half, x + entry.width, middle + half, None, theme)
    yield text(entry.words, x + entry.width + _BESIDE, middle + 3.3, DETAIL_PT, theme.quiet, anchor="start")


_BAR = 170.0
_ZERO = 8.0  # the band of a signed scale's middle fill, which is for zero alone


def _bar_width(measure: Measure) -> float:
    return text_width(measure.label, DETAIL_PT) + 10 + _BAR + 20


def _fills(measure: Measure, theme: Theme) -> list[tuple[str, float]]:
    """The fills of the bar from low to high, and how wide each is."""
    if measure.scale != "signed":
        return [(fill, _BAR / len(theme.sequence)) for fill in theme.sequence]
    middle = len(theme.diverging) // 2
    step = (_BAR - _ZERO) / (len(theme.diverging) - 1)
    return [(fill, _ZERO if at == middle else step) for at, fill in enumerate(theme.diverging)]


def _bar(measure: Measure, x: float, top: float, theme: Theme) -> Iterator[str]:
    """The fills of the measure from low to high, with ticks below and the measure's name before."""
    yield text(measure.label, x, top + 9, DETAIL_PT, theme.quiet, anchor="start")
    x += text_width(measure.label, DETAIL_PT) + 10
    left = x
    for fill, wide in _fills(measure, theme):
        yield rectangle(left, top, left + wide, top + 11, fill)
        left += wide
    yield rectangle(x, top, x + _BAR, top + 11, "none", theme.gradient, 0.8)
    for place, words in measure.ticks():
        at = x + place * _BAR
        yield rectangle(at - 0.4, top + 11, at + 0.4, top + 14, theme.gradient)
        yield text(words, at, top + 23, 8.0, theme.quiet)
