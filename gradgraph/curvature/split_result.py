"""The result of `curvature()`: which operations the curvature comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from gradgraph.errors import InputError
from gradgraph.graph import AutogradGraph
from gradgraph.shares import format_share, magnitude_of, share_of, shares_words, total_of

__all__ = ["Curvature", "added"]

_SHOWN = 15  # rows of the repr


@dataclass(eq=False, repr=False)
class Curvature:
    """The curvature of a loss, split by the operations of its forward. Holds no node and no tensor of the program.

    Attributes:
        of: "direction": eᵀHe for the direction e that was given; "trace": the trace of the Hessian.
        total: that number. NaN where a slope or curvature is infinite and something does not move there: 0 · ∞.
        contributions: what each operation adds to `total`, by its key in `graph`; 0.0 for those that add nothing.
        graph: the graph of the loss, with the contributions in the node attribute `curvature`; it is not live.
        gauss_newton: the sum over the operations that take the model's output in; None where that is not known.
        residual: the sum over all others; None where `gauss_newton` is.
        stderr: standard error of `total`, of an estimated trace, NaN of a single probe; else None.
        probes: how many vectors it was estimated with; 0 for exact results.
        diagonal: with `per_entry`, the diagonal of the Hessian by parameter; else None.
        entries: with `per_entry`, by parameter and node key what the operation adds to its diagonal; else None.
    """

    of: Literal["direction", "trace"]
    total: float
    contributions: dict[int, float]
    graph: AutogradGraph
    gauss_newton: float | None = None
    residual: float | None = None
    stderr: float | None = None
    probes: int = 0
    diagonal: dict[str, Tensor] | None = None
    entries: dict[str, dict[int, Tensor]] | None = None
    _numbers: dict[int, int] = field(default_factory=dict)  # which node was made when, while the process lasts

    @property
    def magnitude(self) -> float:
        """The sum of the magnitudes of all contributions, of which shares are shown: `total` where nothing cancels."""
        return magnitude_of(self.contributions.values())

    def by_op(self) -> dict[str, float]:
        """What all operations of one kind add, by `op`, the largest first."""
        return self._summed("op", "")

    def by_module(self) -> dict[str, float]:
        """What the operations of each module add, by its path, the largest first.

        The module of an operation is the one that it was recorded in, or, where it was not recorded, the one whose
        parameters it uses. The others stand under "(no module)", recorded ones that ran outside of any module (an L2
        penalty) too, the outermost module's own under "(outermost)".
        """
        return self._summed("module", "(no module)")

    def by_source(self) -> dict[str, float]:
        """What the operations of each line add, by `file:line in function`, the largest first.

        Lines are known of what was recorded; the rest stands under "(no line)".
        """
        return self._summed("source", "(no line)")

    def annotations(self, graph: AutogradGraph) -> dict[int, float | None]:
        """For `annotate(graph, "curvature", result)`: the contribution of each node, None for leaves and all else.

        Raises:
            InputError: the graph does not have the operations of this result.
        """
        keys = self._keys_in(graph)
        if self.contributions and not keys:
            raise InputError(
                f"none of the {len(self.contributions)} operations of this curvature is in the graph: expected a graph "
                "traced from the same loss, or from one run of the same program on the same shapes."
            )
        found: dict[int, float | None] = dict.fromkeys(graph)
        found.update((mine, self.contributions[key]) for key, mine in keys.items())
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_numbers": {}}  # in another process they number other nodes

    def __repr__(self) -> str:
        heading = f"<Curvature: {self._what()}>"
        values = self.contributions
        order = sorted((key for key in values if values[key]), key=lambda key: _weight(values[key]), reverse=True)
        rows: list[tuple[str, ...]] = [("curvature", "share", "operation", "node", "module", "line")]
        magnitude = self.magnitude
        rows += [self._row(key, magnitude) for key in order[:_SHOWN]]
        # A program that was not recorded has neither modules nor lines.
        columns = [column for column in zip(*rows, strict=True) if any(column[1:]) or column[0] == "curvature"]
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(
                cell.rjust(width) if column[0] in ("curvature", "share", "node") else cell.ljust(width)
                for cell, width, column in zip(row, widths, columns, strict=True)
            ).rstrip()
            for row in zip(*columns, strict=True)
        ]
        if not order:
            lines = []
        rest = order[_SHOWN:]
        if rest:
            lines.append(f"… and {len(rest)} more: {added(values[key] for key in rest):+.4g}")
        nothing = len(values) - len(order)
        if nothing:
            lines.append(f"{nothing} {'operation adds' if nothing == 1 else 'operations add'} nothing")
        words = shares_words(self.total, magnitude)
        return "\n".join([heading, *lines, *([words] if words else [])])

    def _what(self) -> str:
        what = "trace of the Hessian" if self.of == "trace" else "curvature along one direction"
        text = f"{what} {self.total:.6g}"
        if self.stderr is not None:
            text += f" ± {self.stderr:.2g} ({self.probes} probe{'s' * (self.probes != 1)})"
        if self.gauss_newton is not None:
            text += f": Gauss-Newton {self.gauss_newton:.4g}, residual {self.residual:.4g}"
        return text

    def _row(self, key: int, magnitude: float) -> tuple[str, ...]:
        data = self.graph.nodes[key]
        value = self.contributions[key]
        share = share_of(value, magnitude)
        module = "" if data["module"] is None else data["module"] or "(outermost)"
        words = "-" if share is None else format_share(share)
        return f"{value:+.4g}", words, data["op"], str(key), _cut(module), _cut(data["source"] or "")

    def _summed(self, attribute: str, unknown: str) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for key, value in self.contributions.items():
            name = self.graph.nodes[key][attribute]
            groups.setdefault(unknown if name is None else name or "(outermost)", []).append(value)
        sums = {name: added(values) for name, values in groups.items()}
        return dict(sorted(sums.items(), key=lambda item: _weight(item[1]), reverse=True))

    def _keys_in(self, graph: AutogradGraph) -> dict[int, int]:
        """Key in `graph` of each operation of this result that is in it."""
        if graph.is_live and self._numbers:
            there = {node._sequence_nr(): key for key, node in enumerate(graph.live.nodes)}
            same = {key: there[number] for key, number in self._numbers.items() if number in there}
            return {key: mine for key, mine in same.items() if self._alike(graph, key, mine)}
        if all(key in graph and self._alike(graph, key, key) for key in self.contributions):
            return {key: key for key in self.contributions}
        return {}

    def _alike(self, graph: AutogradGraph, key: int, mine: int) -> bool:
        ours: Mapping[str, Any] = self.graph.nodes[key]
        theirs: Mapping[str, Any] = graph.nodes[mine]
        return bool(ours["op"] == theirs["op"] and ours["outputs"] == theirs["outputs"])


def _weight(value: float) -> float:
    return math.inf if math.isnan(value) else abs(value)


def _cut(text: str, most: int = 48) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def added(values: Iterable[float]) -> float:
    """The sum of `values`, correctly rounded; where they are not all finite, what their sum is."""
    return total_of(values)
