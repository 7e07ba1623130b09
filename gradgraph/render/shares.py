"""What a picture or report says of a whole curvature: what it is of, and what all nodes sum to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradgraph.render.lines import format_number

__all__ = ["curvature_words"]

#: The graph attribute `curvature`, `of`, in words.
_QUANTITIES = {
    "trace": "trace of the Hessian",
    "gradient": "curvature along the gradient",
    "direction": "curvature along one direction",
}


def curvature_words(about: Mapping[str, Any]) -> str:
    """One line on the whole: `trace of the Hessian +2.5: Gauss-Newton +3, residual -0.5`."""
    text = f"{_QUANTITIES.get(str(about.get('of')), 'curvature')} {format_number(about['total'], sign=True)}"
    if about.get("stderr") is not None:
        text += f" ± {format_number(about['stderr'])} (estimated)"
    parts = (("Gauss-Newton", about.get("gauss_newton")), ("residual", about.get("residual")))
    split = [f"{name} {format_number(value, sign=True)}" for name, value in parts if value is not None]
    return f"{text}: {', '.join(split)}" if split else text
