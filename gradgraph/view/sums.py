"""What a box says about all that is in it: counts, bytes, ranges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gradgraph.shares import total_of
from gradgraph.view.reading import Reading

__all__ = ["Sums"]


class Sums:
    """Sums over nodes. What no node of the graph was measured for is null everywhere."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._gradients = any(data.get("gradient") is not None for data in reading.data)
        self._hessians = any(data.get("hessian_diagonal") is not None for data in reading.data)

    def of(self, members: Sequence[int]) -> dict[str, Any]:
        """The attributes of a box with these members."""
        nodes = [self._reading.data[member] for member in members]
        orders = [self._reading.order[member] for member in members]
        ops = Counter(str(data.get("op")) for data in nodes)
        kinds = Counter(str(data.get("kind", "op")) for data in nodes)
        curvature = [float(data["curvature"]) for data in nodes if _is_number(data.get("curvature"))]
        return {
            "count": len(nodes),
            "order": min(orders),
            "orders": [min(orders), max(orders)],
            "kinds": dict(sorted(kinds.items())),
            "ops": dict(sorted(ops.items(), key=lambda entry: (-entry[1], entry[0]))),
            "saved_bytes": sum(data["saved_bytes"] for data in nodes if _is_number(data.get("saved_bytes"))),
            "gradient_range": _gradient_range(nodes) if self._gradients else None,
            "curvature": total_of(curvature) if curvature else None,
            "hessian_range": _hessian_range(nodes) if self._hessians else None,
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _gradient_range(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lowest and highest norm of an output's gradient; how many entries are NaN or infinite; nodes without gradient."""
    norms, nan, inf, none = [], 0, 0, 0
    for data in nodes:
        found = list(_entries(data.get("gradient")))
        none += not found
        for one in found:
            if _is_number(one.get("norm")) and math.isfinite(one["norm"]):
                norms.append(one["norm"])
            nan += int(one.get("nan") or 0)
            inf += int(one.get("inf") or 0)
    return {"low": min(norms, default=None), "high": max(norms, default=None), "nan": nan, "inf": inf, "none": none}


def _hessian_range(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Least and largest entry of the Hessian's diagonal, and how many are negative; None where there is none."""
    found = [one for data in nodes for one in _entries(data.get("hessian_diagonal"))]
    if not found:
        return None
    low = [one["min"] for one in found if _is_number(one.get("min"))]
    high = [one["max"] for one in found if _is_number(one.get("max"))]
    negative = sum(int(one.get("negative") or 0) for one in found)
    return {"low": min(low, default=None), "high": max(high, default=None), "negative": negative}


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            yield one
