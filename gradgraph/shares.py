"""Shares of a curvature: parts of either sign, as portions of the sum of all their magnitudes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["about_curvature", "format_share", "magnitude_of", "share_of", "shares_words", "total_of"]


def total_of(values: Iterable[float]) -> float:
    """Their sum, correctly rounded; where they are not all finite, what their sum is."""
    known = list(values)
    return math.fsum(known) if all(map(math.isfinite, known)) else sum(known)


def magnitude_of(values: Iterable[float]) -> float:
    """The sum of their magnitudes. Unlike their sum it is zero only where all of them are."""
    return total_of(map(abs, values))


def share_of(value: float, magnitude: float | None) -> float | None:
    """`value` as a portion of `magnitude`, the sum of all magnitudes: -1 to 1. None where that says nothing.

    Of the sum itself a portion says nothing: parts of either sign cancel, and where little is left of them each is
    many times that; where less than nothing is left, all signs turn.
    """
    return value / magnitude if magnitude and math.isfinite(magnitude) and math.isfinite(value) else None


def format_share(share: float) -> str:
    """A share in words: `+41 %`, `-0.3 %`.

    >>> format_share(0.4123), format_share(-0.0031), format_share(2e-6)
    ('+41 %', '-0.3 %', '<0.1 %')
    """
    percent = 100 * share
    if abs(percent) < 0.05:
        return "<0.1 %" if percent else "0 %"
    return f"{percent:+.0f} %" if abs(percent) >= 9.95 else f"{percent:+.1f} %"


def shares_words(total: float | None, magnitude: float | None) -> str | None:
    """What shares are of, where that is not plain: where parts cancel.

    >>> shares_words(2.0, 4.0), shares_words(4.0, 4.0)
    ('shares of 4, the sum of all magnitudes', None)
    """
    if total is None or not magnitude or not math.isfinite(magnitude):
        return None
    cancels = magnitude - abs(total) > 1e-9 * magnitude
    return f"shares of {magnitude:.3g}, the sum of all magnitudes" if cancels else None


def about_curvature(nodes: Iterable[Mapping[str, Any]], graph: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is known of the whole: the graph attribute `curvature`, completed from the attributes of the nodes.

    That is `of`, `total`, `magnitude` and where known `gauss_newton`, `residual`, `stderr`. Where the values are the
    user's own, `of` is None, the total is their sum, and that of a part of a graph is not known.

    Returns:
        None where no node carries any.
    """
    values = [float(data["curvature"]) for data in nodes if data.get("curvature") is not None]
    if not values:
        return None
    hidden = (graph.get("hidden") or {}).get("nodes")
    sums: dict[str, Any] = {"of": None, "total": None, "magnitude": None}
    if not hidden:
        sums |= {"total": total_of(values), "magnitude": magnitude_of(values)}
    known = graph.get("curvature")
    return {**sums, **known} if isinstance(known, Mapping) and known.get("total") is not None else sums
