"""The lines of text in a box that stands for many nodes: what it is, how much it hides, and what needs a look."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gradgraph.render.lines import (
    LONGEST,
    Line,
    Role,
    Show,
    curvature_lines,
    format_bytes,
    format_number,
    outputs_line,
    short_source,
)

__all__ = ["folded_lines", "short_op"]

_MOST_OPS = 3
_BACKWARD = re.compile(r"(?<=.)Backward\d*(?=$|Backward)")

#: Kinds of members that a reader must not overlook, and how a box counts them.
_KINDS: dict[str, tuple[str, Role]] = {
    "blocked": ("cannot be differentiated again", "alert"),
    "opaque": ("opaque", "note"),
    "custom": ("custom", "note"),
}


def folded_lines(data: Mapping[str, Any], show: Show) -> list[Line]:
    """The lines for a folded box of a `View`, whose attributes are `data`; the first is its heading."""
    lines = [Line(short_source(str(data.get("label") or data.get("fold"))), "head")]
    alike = data.get("op") is not None  # one operation, in each of several equal parts
    if alike:
        lines += outputs_line(data, show)
    low, high = data.get("orders") or (0, 0)
    if high > low:
        lines.append(Line(f"orders {low} to {high}"))
    size = _size(data, alike)
    if size:
        lines.append(Line(size))
    ops = "" if alike else _ops(data.get("ops") or {})
    if ops:
        lines.append(Line(ops))
    kinds = data.get("kinds") or {}
    for kind, (words, role) in _KINDS.items():
        if kinds.get(kind):
            lines.append(Line(words if alike else f"{kinds[kind]:,} {words}", role))
    if show.gradients:
        lines += _gradients(data.get("gradient_range"))
    if show.hessian:
        lines += _hessian(data.get("hessian_range"))
    lines += curvature_lines(data, show)
    return lines


def short_op(op: str) -> str:
    """An operation's name without what all have in common.

    >>> short_op("AddmmBackward0"), short_op("TanhBackwardBackward0"), short_op("AccumulateGrad")
    ('Addmm', 'Tanh′', 'leaf')
    """
    if op == "AccumulateGrad":
        return "leaf"
    primes = "′" * (op.count("Backward") - 1)
    return _BACKWARD.sub("", op) + primes if primes or op != "Backward" else op


def _size(data: Mapping[str, Any], alike: bool) -> str:
    count = int(data.get("count") or 0)
    parts = [] if alike and count == data.get("times") else [f"{count:,} nodes"]
    if data.get("saved_bytes"):
        parts.append(f"{format_bytes(data['saved_bytes'])} held")
    return " · ".join(parts)


def _ops(ops: Mapping[str, int]) -> str:
    """The most frequent operations, as many as a line holds, and the leaves."""
    shown = [(short_op(op), count) for op, count in ops.items() if op != "AccumulateGrad"]
    leaves = ops.get("AccumulateGrad", 0)
    last = [f"{leaves:,} {'leaf' if leaves == 1 else 'leaves'}"] if leaves else []
    for most in range(min(_MOST_OPS, len(shown)), -1, -1):
        texts = [f"{count:,} {op}" if count > 1 else op for op, count in shown[:most]]
        line = ", ".join(texts + last) + (" …" if most < len(shown) else "")
        if len(line) <= LONGEST:
            return line
    return ""


def _gradients(found: Mapping[str, Any] | None) -> Iterator[Line]:
    if not found:
        return
    bad = [f"{found[kind]:,} {words}" for kind, words in (("nan", "NaN"), ("inf", "inf")) if found.get(kind)]
    if bad:
        yield Line(f"gradients: {', '.join(bad)}", "alert")
    low, high = found.get("low"), found.get("high")
    if low is not None and high is not None:
        yield Line(f"‖grad‖ {_span(low, high)}", "note")
    if found.get("none"):
        yield Line(f"{found['none']:,} without gradient")


def _hessian(found: Mapping[str, Any] | None) -> Iterator[Line]:
    if found and found.get("low") is not None:
        low, high = found["low"], found["high"]
        bad = not (math.isfinite(low) and math.isfinite(high))
        yield Line(f"H diag {_span(low, high)}", "alert" if bad else "note")


def _span(low: float, high: float) -> str:
    return format_number(low) if low == high else f"{format_number(low)} to {format_number(high)}"
