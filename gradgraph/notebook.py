"""How a graph shows itself in a notebook: as a picture where one can be drawn in a moment, else as text."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph

__all__ = ["mimebundle"]

_MOST_NODES = 400  # more is neither legible in a cell nor laid out while one waits
_SECONDS = 5.0
_LINES = 20


def mimebundle(graph: AutogradGraph) -> dict[str, str]:
    """The representations of `graph` by media type: `text/plain` always, `image/svg+xml` where it can be drawn.

    Takes a few seconds at most and never raises: where there is no picture, the text says why and what to do.
    """
    text = _plain(graph)
    if len(graph) == 0:
        return {"text/plain": text}
    if len(graph) > _MOST_NODES:
        return {
            "text/plain": f"{text}\nNo picture here: more than {_MOST_NODES} nodes. graph.render('graph.svg') draws "
            f"larger ones, as far as they can be laid out; graph.subgraph(keys) shows a part.{_outline(graph)}"
        }
    try:
        return {"text/plain": text, "image/svg+xml": _svg(graph)}
    except Exception as error:
        # Whatever is wrong, with an engine, an attribute that a user has overwritten or with us: a repr that raises
        # hides the cell's value and, in a loop of displays, everything after it. The reason is shown instead.
        described = " ".join(f"{type(error).__name__}: {error}".split())
        advice = "`gradgraph doctor` says what can be drawn."
        return {"text/plain": f"{text}\nNo picture here: {described} {advice}{_outline(graph)}"}


def _plain(graph: AutogradGraph) -> str:
    try:
        return repr(graph)
    except Exception:  # an `order` that is no number, say: see above
        return object.__repr__(graph)


def _outline(graph: AutogradGraph) -> str:
    from gradgraph.render.text import outline

    try:
        return f"\n\n{outline(graph, _LINES)}"
    except Exception:  # as above; the reason is in the text already
        return ""


def _svg(graph: AutogradGraph) -> str:
    from gradgraph.render import to_svg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fallback to the other engine is no news to who looks at a cell
        return to_svg(graph, timeout=_SECONDS, max_boxes=4 * _MOST_NODES)
