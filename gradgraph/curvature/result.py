"""What `hessian_diagonal` gives: tensors by name, how they were computed, figures for a graph's leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradgraph.curvature.report import ParameterReport
from gradgraph.graph import AutogradGraph
from gradgraph.labels import gone, keys_of, recall
from gradgraph.measure import norm

__all__ = ["HessianDiagonal"]

_COLUMNS = ("parameter", "shape", "min", "mean", "max", "zeros", "method", "passes", "reached")


class HessianDiagonal(dict[str, Tensor]):
    """The diagonal of a Hessian: for each parameter, by name, a tensor of its shape and dtype.

    Attributes:
        report: how each parameter's part was computed, and what was found.
        stderr: the standard error of each entry, by name; of estimated parts only.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        report: Mapping[str, ParameterReport],
        tensors: Mapping[str, Tensor],
        stderr: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(values)
        self.report = dict(report)
        self.stderr = dict(stderr or {})
        self._tensors = {name: recall(tensor) for name, tensor in tensors.items()}

    def __getstate__(self) -> dict[str, Any]:
        # A saved result is matched with a graph by name.
        return {"report": self.report, "stderr": self.stderr, "_tensors": dict.fromkeys(self, gone)}

    def annotations(self, graph: AutogradGraph) -> dict[int, dict[str, Any]]:
        """For `annotate(graph, "hessian_diagonal", result)`: figures of each parameter's part, per leaf."""
        keys = keys_of(graph, self._tensors, "Hessian diagonal")
        return {key: _figures(self[name], self.report[name], self.stderr.get(name)) for name, key in keys.items()}

    def __repr__(self) -> str:
        rows: list[tuple[str, ...]] = [_COLUMNS]
        for name, values in list(self.items())[:30]:
            report = self.report[name]
            figures = _figures(values, report, self.stderr.get(name))
            numbers = ["–" if figures[key] is None else f"{figures[key]:.4g}" for key in ("min", "mean", "max")]
            rows.append((name, str(list(values.shape)), *numbers, str(figures["zeros"]), *_how(report)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if len(self) > 30:
            lines.append(f"... and {_parameters(len(self) - 30, 'more ')}")
        return "\n".join([f"<HessianDiagonal: {_parameters(len(self))}>", *lines])


def _parameters(count: int, more: str = "") -> str:
    return f"{count} {more}parameter{'' if count == 1 else 's'}"


def _how(report: ParameterReport) -> tuple[str, str, str]:
    return report.method, str(report.passes), report.reached


def _figures(values: Tensor, report: ParameterReport, stderr: Tensor | None) -> dict[str, Any]:
    """The node attribute `hessian_diagonal`; its `stderr` is the root mean square. Figures without entries are None."""
    wide = values.detach().cpu().double()  # not every device has float64
    empty = wide.numel() == 0
    return {
        "method": report.method,
        "exact": report.exact,
        "mean": None if empty else float(wide.mean()),
        "min": None if empty else float(wide.min()),
        "max": None if empty else float(wide.max()),
        "norm": norm(values),
        "negative": int((wide < 0).sum()),
        "zeros": int((wide == 0).sum()),
        "stderr": None if stderr is None or empty else norm(stderr) / stderr.numel() ** 0.5,
    }
