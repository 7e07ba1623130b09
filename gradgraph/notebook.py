"""How a graph or a view shows itself in a notebook: as a picture where one comes in a moment, else as text."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph
    from gradgraph.view import View

__all__ = ["mimebundle"]

_MOST_NODES = 50_000  # of a graph, which is folded: two seconds
_MOST_BOXES = 600  # of a view, which is drawn as it is: more are not legible in a cell
_SECONDS = 5.0
_LINES = 20


def mimebundle(graph: AutogradGraph | View) -> dict[str, str]:
    """The representations of `graph` by media type: `text/plain` always, `image/svg+xml` where it can be drawn.

    A graph too large to be taken in is folded. Takes a few seconds at most and never raises: where there is no
    picture, the text says why and what to do.
    """
    text = _plain(graph)
    if len(graph) == 0:
        return {"text/plain": text}
    is_view = hasattr(graph, "box_of")
    most, unit = (_MOST_BOXES, "boxes") if is_view else (_MOST_NODES, "nodes")
    if len(graph) > most:
        advice = "gradgraph.fold(graph, ...)" if is_view else "graph.render('graph.svg')"
        return {
            "text/plain": f"{text}\nNo picture here: more than {most:,} {unit}. {advice} takes a little longer; "
            f"gradgraph.focus(graph, node) shows a part.{_outline(graph)}"
        }
    try:
        return {"text/plain": text, "image/svg+xml": _svg(graph)}
    except Exception as error:
        # Whatever is wrong, with an engine, an attribute that a user has overwritten or with us: a repr that raises
        # hides the cell's value and, in a loop of displays, everything after it. The reason is shown instead.
        described = " ".join(f"{type(error).__name__}: {error}".split())
        advice = "`gradgraph doctor` says what can be drawn."
        return {"text/plain": f"{text}\nNo picture here: {described} {advice}{_outline(graph)}"}


def _plain(graph: AutogradGraph | View) -> str:
    try:
        return repr(graph)
    except Exception:  # an `order` that is no number, say: see above
        return object.__repr__(graph)


def _outline(graph: AutogradGraph | View) -> str:
    from gradgraph.graph import AutogradGraph
    from gradgraph.render.text import outline

    if not isinstance(graph, AutogradGraph):
        return ""
    try:
        return f"\n\n{outline(graph, _LINES)}"
    except Exception:  # as above; the reason is in the text already
        return ""


def _svg(graph: AutogradGraph | View) -> str:
    from gradgraph.render import to_svg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fallback to the other engine is no news to who looks at a cell
        return to_svg(graph, timeout=_SECONDS)
