"""Weight and colour for the single lines of a box.

Plain DOT labels have one font a box, and HTML labels are not for every engine: so the SVG is lettered afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gradgraph.render.lines import Line
from gradgraph.render.picture import DETAIL_PT, Picture
from gradgraph.render.theme import Theme

__all__ = ["lettered"]

_NODE = re.compile(r'<g id="([^"]*)" class="node">.*?</g>\n', re.DOTALL)
_TEXT = re.compile(r"<text ([^>]*)>")


def lettered(picture: Picture, theme: Theme) -> Callable[[str], str]:
    """A function from the SVG of `picture`, as Graphviz draws it, to the same with its lines told apart."""
    lines = {box.key: box.lines for box in picture.boxes}

    def finish(svg: str) -> str:
        return _NODE.sub(lambda found: _box(found[0], lines.get(found[1], ()), theme), svg)

    return finish


def _box(group: str, lines: tuple[Line, ...], theme: Theme) -> str:
    texts = iter(lines)

    def line(found: re.Match[str]) -> str:
        shown = next(texts, None)
        return found[0] if shown is None else f"<text {_look(found[1], shown, theme)}>"

    return _TEXT.sub(line, group)


def _look(attributes: str, line: Line, theme: Theme) -> str:
    if line.role == "head":
        return f'{attributes} font-weight="bold"'
    color = {"detail": theme.quiet, "note": theme.note, "alert": theme.alert}[line.role]
    attributes = re.sub(r' (?:font-size|fill)="[^"]*"', "", attributes)
    weight = ' font-weight="bold"' if line.role == "alert" else ""
    return f'{attributes} font-size="{DETAIL_PT:.2f}"{weight} fill="{color}"'
