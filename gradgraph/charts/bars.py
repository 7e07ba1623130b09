"""Shares of a curvature as bars."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal, Protocol

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradgraph.charts.canvas import SIZES, ends, plain, signed
from gradgraph.charts.figure import Chart
from gradgraph.render.theme import Theme, mixed
from gradgraph.shares import format_share, share_of, shares_words

__all__ = ["Shared", "bar_figure"]

_WIDTH = 8.0  # inches
_LONGEST = 44  # characters of a name
_NAMES = {"module": "module", "op": "operation", "source": "line"}


class Shared(Protocol):
    """What bars are drawn of: a `Curvature`, or what looks like one."""

    @property
    def of(self) -> str:
        """What the total is: "direction" or "trace"."""

    @property
    def total(self) -> float:
        """The sum of the shares."""

    @property
    def magnitude(self) -> float:
        """The sum of the magnitudes of what all operations add."""

    @property
    def stderr(self) -> float | None:
        """Standard error of the total, of an estimate."""

    @property
    def gauss_newton(self) -> float | None:
        """The part of it that comes from after the model's output."""

    @property
    def residual(self) -> float | None:
        """The rest."""

    def by_module(self) -> dict[str, float]:
        """Shares by module."""

    def by_op(self) -> dict[str, float]:
        """Shares by operation."""

    def by_source(self) -> dict[str, float]:
        """Shares by line."""


def bar_figure(
    curvature: Shared, by: Literal["module", "op", "source"], most: int, theme: Theme, title: str | None
) -> Figure:
    """Bars from the largest down, their numbers beside them."""
    given = {"module": curvature.by_module, "op": curvature.by_op, "source": curvature.by_source}[by]()
    bars, nothing = _bars(given, most, by)
    height = 0.29 * max(1, len(bars)) + 1.35
    figure = Chart(figsize=(_WIDTH, height), facecolor=theme.background)
    longest = max((len(name) for name, _ in bars), default=0)
    left = min(0.45, (0.075 * longest + 0.35) / _WIDTH)
    axes = figure.add_axes((left, 0.5 / height, 0.97 - left, 1 - 1.35 / height))
    plain(axes, theme)
    values = [value if math.isfinite(value) else 0.0 for _, value in bars]
    low, high = ends(theme)
    for place, value in enumerate(values):
        negative = value < 0
        axes.barh(
            place,
            value,
            height=0.66,
            color=mixed(low, theme.background, 0.45) if negative else high,
            edgecolor=low if negative else high,
            hatch="////" if negative else None,
            linewidth=0.8,
        )
    labels = [_number(value, curvature.magnitude) for _, value in bars]
    axes.set_xlim(_limits(values, labels, (0.97 - left) * _WIDTH))
    reach = axes.get_xlim()[1] - axes.get_xlim()[0]
    for place, (label, (_, value), drawn) in enumerate(zip(labels, bars, values, strict=True)):
        axes.text(
            drawn + math.copysign(0.008 * reach, drawn),
            place,
            label,
            ha="right" if drawn < 0 else "left",
            va="center",
            fontsize=SIZES[1],
            color=theme.text if math.isfinite(value) else theme.alert,
        )
    if not bars:
        axes.text(0, 0, "no share is other than zero", ha="center", va="center", fontsize=SIZES[1], color=theme.text)
        axes.set_axis_off()
        return _headed(figure, title or _heading(curvature), _detail(curvature, by, nothing), theme)
    axes.axvline(0, color=theme.text, linewidth=0.8)
    axes.set_ylim(max(1, len(bars)) - 0.4, -0.6)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="x", labelsize=SIZES[2], colors=theme.quiet)
    axes.grid(axis="x", color=mixed(theme.quiet, theme.background, 0.2), linewidth=0.6)
    axes.set_axisbelow(True)
    return _headed(figure, title or _heading(curvature), _detail(curvature, by, nothing), theme)


def _headed(figure: Figure, heading: str, detail: str, theme: Theme) -> Figure:
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.27 / height, heading, fontsize=SIZES[0], color=theme.text, va="center")
    figure.text(0.02, 1 - 0.56 / height, detail, fontsize=SIZES[2], color=theme.quiet, va="center")
    return figure


def _bars(given: dict[str, float], most: int, by: str) -> tuple[list[tuple[str, float]], int]:
    """Names and numbers from the largest magnitude down, the smallest in one; and how many add nothing."""
    order = sorted((item for item in given.items() if item[1] != 0), key=lambda item: -_weight(item[1]))
    if len(order) > most:
        rest = order[most - 1 :]
        order = [*order[: most - 1], (f"others ({len(rest)})", sum(value for _, value in rest))]
    return [(_short(name, by), value) for name, value in order], sum(value == 0 for value in given.values())


def _weight(value: float) -> float:
    return math.inf if math.isnan(value) else abs(value)


def _short(name: str, by: str) -> str:
    """A name that fits: of a line the file's own name, of a long one both ends."""
    if by == "source":
        name = re.sub(r"^.*[/\\](?=[^/\\]+:\d+ in )", "", name)
    if by == "op":
        name = re.sub(r"Backward\d*$", "", name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 3]}…{name[-(2 * _LONGEST // 3 - 1) :]}"


def _limits(values: list[float], labels: list[str], width: float) -> tuple[float, float]:
    """Ends of the axis that leave room for the numbers beside the bars; `width` of the axes in inches."""
    low, high = min([0.0, *values]), max([0.0, *values])
    if low == high:
        return -1.0, 1.0
    left = _room(label for label, value in zip(labels, values, strict=True) if value < 0)
    right = _room(label for label, value in zip(labels, values, strict=True) if value >= 0)
    inch = (high - low) / max(width - left - right, 1.0)
    return low - left * inch, high + right * inch


def _room(labels: Iterable[str]) -> float:
    """Inches that the longest number takes beside its bar."""
    return max((0.071 * len(label) + 0.15 for label in labels), default=0.08)


def _number(value: float, magnitude: float) -> str:
    share = share_of(value, magnitude)
    words = signed(value, digits=4)
    return words if share is None else f"{words}  ({format_share(share).replace('-', '−')})"


def _heading(curvature: Shared) -> str:
    what = "Trace of the Hessian" if curvature.of == "trace" else "Curvature along one direction"
    spread = "" if curvature.stderr is None else f" ± {curvature.stderr:.2g}"
    return f"{what}: {signed(curvature.total, '', 5)}{spread}"


def _detail(curvature: Shared, by: str, nothing: int) -> str:
    parts = [f"what each {_NAMES[by]} adds"]
    shares = shares_words(curvature.total, curvature.magnitude)
    if shares:
        parts.append(shares)
    if nothing:
        parts.append(f"{nothing} {'adds' if nothing == 1 else 'add'} nothing")
    if curvature.gauss_newton is not None and curvature.residual is not None:
        parts.append(f"Gauss-Newton {signed(curvature.gauss_newton)}, residual {signed(curvature.residual)}")
    return "  ·  ".join(parts)
