"""Texts, lists and looks in the DOT language: every text is quoted here, whatever it contains."""

from __future__ import annotations

from collections.abc import Mapping

from gradgraph.render.arrows import arrow_look, label_of
from gradgraph.render.boxes import shade
from gradgraph.render.measures import Measure
from gradgraph.render.picture import Arrow, Box
from gradgraph.render.theme import Theme

__all__ = ["arrow_attributes", "box_look", "inches", "listed", "quoted"]

_SHAPES = {"leaf": "box", "op": "box", "custom": "note", "opaque": "box3d", "blocked": "octagon", "root": "box"}


def quoted(text: str) -> str:
    r"""`text` as a DOT string that shows exactly as it is: no escapes, entities, HTML or ports are read into it.

    >>> print(quoted('<lambda>:"\\n"'), quoted("a&amp;b"))
    "<lambda>:\"\\n\"" "a&amp;amp;b"
    """
    literal = text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{literal}"'


def listed(attributes: Mapping[str, str]) -> str:
    """Attributes in brackets, with a space before; nothing where there are none."""
    return " [" + ", ".join(f"{name}={value}" for name, value in attributes.items()) + "]" if attributes else ""


def inches(points: float) -> str:
    """A length in inches, as sizes of nodes are given."""
    return f"{points / 72:.3f}"


def box_look(box: Box, measure: Measure | None, theme: Theme) -> dict[str, str]:
    """Shape and colours."""
    fill, border = theme.order(box.order)
    look = {}
    if box.leaf or box.category in ("leaf", "root", "opaque", "blocked", "custom"):
        look = {"shape": _SHAPES.get(box.category, "box"), "style": "filled"}
    if box.category == "folded":
        look |= {"peripheries": "2"}
    if box.leaf or box.category == "leaf":
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
        fill = theme.background if box.measure is None else shade(box.measure, measure, theme)
    if box.alert:
        fill, border = theme.alert_fill, theme.alert
        look |= {"penwidth": "2.2"}
    return look | {"fillcolor": f'"{fill}"', "color": f'"{border}"'}


def arrow_attributes(arrow: Arrow, theme: Theme) -> dict[str, str]:
    """Line and label."""
    look = {}
    if arrow.role == "curvature":
        look = {"color": f'"{theme.curvature}"', "style": "dashed", "penwidth": "1.5"}
    elif arrow.role == "mark":
        look = {"color": f'"{theme.root[0]}"', "penwidth": "1.5"}
    if arrow.count > 1:
        look["penwidth"] = f"{arrow_look(arrow.role, arrow.count, theme)[1]:.2g}"
    label = label_of(arrow)
    if label:
        look["taillabel"] = quoted(label).replace("\n", "\\n")
        if len(label) > 4:
            look |= {"labeldistance": "2.8", "labelangle": "-66"}
    return look
