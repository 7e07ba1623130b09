"""Measures that the fill of boxes can show instead of their order: a value per box, a scale, and its ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gradgraph.errors import InputError
from gradgraph.render.lines import format_bytes, format_number

__all__ = ["Measure", "MeasureName", "measured", "scale_of"]

MeasureName = Literal["gradient", "hessian_diagonal", "curvature", "saved_bytes"]


@dataclass(frozen=True)
class Measure:
    """What the fill of the boxes shows instead of their order: a value per box, between two bounds."""

    label: str
    low: float
    high: float
    scale: Literal["log", "signed"]
    unit: Literal["", "bytes"] = ""

    def place(self, value: float) -> float:
        """Where a value lies between the bounds, 0 to 1; NaN lies nowhere."""
        if self.scale == "log":
            if value <= 0 or self.high <= self.low:
                return 0.0 if value <= 0 else 1.0
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Places, 0 to 1, and their values in words: the bounds and what lies half-way."""
        if self.high <= self.low:
            return [(self.place(self.high), self._words(self.high))]
        middle = math.sqrt(self.low) * math.sqrt(self.high) if self.scale == "log" else (self.low + self.high) / 2
        return [(place, self._words(value)) for place, value in ((0.0, self.low), (0.5, middle), (1.0, self.high))]

    def _words(self, value: float) -> str:
        if self.unit == "bytes":
            return format_bytes(round(value))
        return format_number(value, sign=self.scale == "signed")


@dataclass(frozen=True)
class _Kind:
    label: str
    read: Callable[[Any], float | None]  # the attribute of a node
    folded: str  # the attribute of a folded box
    read_folded: Callable[[Any], float | None]
    scale: Literal["log", "signed"]
    unit: Literal["", "bytes"] = ""


def _first_number(value: Any, field: str) -> float | None:
    entries = value if isinstance(value, list) else [value]
    found = [float(entry[field]) for entry in entries if entry is not None and entry.get(field) is not None]
    return math.hypot(*found) if field == "norm" and found else (found[0] if found else None)


def _highest(span: Mapping[str, Any]) -> float | None:
    """Of a range of norms: the highest. None that is finite, but NaN somewhere, is NaN."""
    if span.get("high") is not None:
        return float(span["high"])
    return math.nan if span.get("nan") or span.get("inf") else None


def _farthest(span: Mapping[str, Any]) -> float | None:
    """Of a range of signed values: the one farthest from zero."""
    if span.get("low") is None or span.get("high") is None:
        return None
    return max(float(span["low"]), float(span["high"]), key=abs)


_KINDS: dict[str, _Kind] = {
    "gradient": _Kind(
        "gradient norm", lambda value: _first_number(value, "norm"), "gradient_range", _highest, scale="log"
    ),
    "hessian_diagonal": _Kind(
        "mean of Hessian diagonal",
        lambda value: _first_number(value, "mean"),
        "hessian_range",
        _farthest,
        scale="signed",
    ),
    "curvature": _Kind("curvature", float, "curvature", float, scale="signed"),
    "saved_bytes": _Kind("bytes held", float, "saved_bytes", float, scale="log", unit="bytes"),
}


def measured(nodes: Mapping[int, Mapping[str, Any]], color: str) -> dict[int, float]:
    """The value of each node or folded box that has one.

    Raises:
        InputError: `color` is not known, or no node carries that attribute.
    """
    if color not in _KINDS:
        known = ", ".join(("order", *get_args(MeasureName)))
        raise InputError(f"color={color!r} is not known: expected one of {known}.")
    kind = _KINDS[color]
    values: dict[int, float] = {}
    for key, data in nodes.items():
        name, read = (kind.folded, kind.read_folded) if data.get("fold") else (color, kind.read)
        value = data.get(name)
        number = None if value is None else read(value)
        if number is not None:
            values[key] = number
    if not any(map(math.isfinite, values.values())):
        raise InputError(
            f"color={color!r} needs nodes that carry {color!r}, and none has a finite value; annotate the graph first: "
            f"gradgraph.annotate(graph, {color!r}, values)."
        )
    return values


def scale_of(color: str, values: Mapping[int, float]) -> Measure:
    """The scale on which `values` are shown. At least one is finite."""
    kind = _KINDS[color]
    finite = [value for value in values.values() if math.isfinite(value)]
    if kind.scale == "signed":
        reach = max(map(abs, finite))
        return Measure(kind.label, -reach, reach, kind.scale, kind.unit)
    positive = [value for value in finite if value > 0]
    return Measure(kind.label, min(positive, default=0.0), max(positive, default=0.0), kind.scale, kind.unit)
