"""What a picture or report says of curvature: what it is of, what all nodes sum to, and each one's share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradgraph.render.lines import format_number
from gradgraph.view.sums import total_of

if TYPE_CHECKING:
    from gradgraph.render.subject import Drawable

__all__ = ["about_curvature", "curvature_words"]

#: The graph attribute `curvature`, `of`, in words.
_QUANTITIES = {
    "trace": "trace of the Hessian",
    "gradient": "curvature along the gradient",
    "direction": "curvature along one direction",
}


def about_curvature(graph: Drawable) -> dict[str, Any] | None:
    """The graph attribute `curvature`: `of`, `total`, and where known `gauss_newton`, `residual`, `stderr`.

    Where the values are the user's own, the total is their sum, and that of a part of a graph is not known. None where
    no node carries any.
    """
    values = [data["curvature"] for data in graph.nodes.values() if data.get("curvature") is not None]
    if not values:
        return None
    known = graph.graph.get("curvature")
    if isinstance(known, Mapping) and known.get("total") is not None:
        return dict(known)
    hidden = (graph.graph.get("hidden") or {}).get("nodes")
    return {"of": None, "total": None if hidden else total_of(map(float, values))}


def curvature_words(about: Mapping[str, Any]) -> str:
    """One line on the whole: `trace of the Hessian +2.5: Gauss-Newton +3, residual -0.5`."""
    text = f"{_QUANTITIES.get(str(about.get('of')), 'curvature')} {format_number(about['total'], sign=True)}"
    if about.get("stderr") is not None:
        text += f" ± {format_number(about['stderr'])} (estimated)"
    parts = (("Gauss-Newton", about.get("gauss_newton")), ("residual", about.get("residual")))
    split = [f"{name} {format_number(value, sign=True)}" for name, value in parts if value is not None]
    return f"{text}: {', '.join(split)}" if split else text
