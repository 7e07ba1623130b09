"""Charts, drawn by matplotlib: a Hessian as a heat map, and shares of curvature as bars.

matplotlib is imported when a chart is drawn: `pip install "gradgraph[plot]"`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from gradgraph.charts.canvas import checked_path, drawing, write
from gradgraph.errors import InputError
from gradgraph.render.theme import theme_called

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradgraph.charts.bars import Shared
    from gradgraph.curvature import HessianBlocks

__all__ = ["heat_map", "shares"]


@overload
def heat_map(blocks: HessianBlocks, path: None = None, *, theme: str = ..., title: str | None = ...) -> Figure: ...
@overload
def heat_map(
    blocks: HessianBlocks, path: str | os.PathLike[str], *, theme: str = ..., title: str | None = ...
) -> Path: ...
def heat_map(
    blocks: HessianBlocks, path: str | os.PathLike[str] | None = None, *, theme: str = "light", title: str | None = None
) -> Path | Figure:
    """Draw a Hessian as a heat map: colours from negative through zero to positive, parameters told apart by lines.

    A matrix of more than 920 entries a side is drawn smaller, each cell the entry of largest magnitude among those
    it stands for, and the caption says of how many. Where entries lie orders of magnitude apart the colours are
    logarithmic, and the scale says so. Blocks that were not computed are hatched; what is not finite stands out.

    Args:
        blocks: what `hessian` returned.
        path: a file, `.png`, `.svg` or `.pdf`; an existing one is replaced, whole or not at all. Without it the figure
            is returned, which a notebook shows as it is.
        theme: `light` or `dark`.
        title: a heading, in place of the matrix's size.

    Returns:
        The path, or the `matplotlib.figure.Figure`. The same Hessian gives the same bytes.

    Raises:
        RenderError: matplotlib is not installed.
        InputError: an unknown theme or suffix, a path that cannot be written, or a Hessian without entries.

    Example:
        >>> import torch, gradgraph
        >>> from gradgraph.charts import heat_map
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> figure = heat_map(gradgraph.hessian(x.prod() ** 2, x))
        >>> figure.axes[0].get_title(loc="left")
        'Hessian, 2 × 2 entries'
    """
    colors = theme_called(theme)
    target = None if path is None else checked_path(path)
    with drawing("heat_map"):
        from gradgraph.charts.heat import heat_figure

        figure = heat_figure(blocks, colors, title)
        return figure if target is None else write(figure, target)


@overload
def shares(
    curvature: Shared,
    by: Literal["module", "op", "source"] = ...,
    path: None = None,
    *,
    most: int = ...,
    theme: str = ...,
    title: str | None = ...,
) -> Figure: ...
@overload
def shares(
    curvature: Shared,
    by: Literal["module", "op", "source"],
    path: str | os.PathLike[str],
    *,
    most: int = ...,
    theme: str = ...,
    title: str | None = ...,
) -> Path: ...
@overload
def shares(
    curvature: Shared,
    by: Literal["module", "op", "source"] = ...,
    *,
    path: str | os.PathLike[str],
    most: int = ...,
    theme: str = ...,
    title: str | None = ...,
) -> Path: ...
def shares(
    curvature: Shared,
    by: Literal["module", "op", "source"] = "module",
    path: str | os.PathLike[str] | None = None,
    *,
    most: int = 20,
    theme: str = "light",
    title: str | None = None,
) -> Path | Figure:
    """Draw what adds how much to a curvature, as bars: largest magnitude first, negative ones to the left and hatched.

    Args:
        curvature: what `gradgraph.curvature(...)` returned.
        by: what a bar stands for: a `module`, the operations of one kind (`op`), or a line of the program (`source`).
        path: as for `heat_map`.
        most: how many bars there are at most; the smallest are added up in one, `others (n)`.
        theme: `light` or `dark`.
        title: a heading, in place of the total.

    Returns:
        The path, or the `matplotlib.figure.Figure`. The same shares give the same bytes.

    Raises:
        RenderError: matplotlib is not installed.
        InputError: an unknown `by`, theme or suffix, fewer than two bars, or a path that cannot be written.
    """
    colors = theme_called(theme)
    if by not in ("module", "op", "source"):
        raise InputError(f"by={by!r} is not known: expected 'module', 'op' or 'source'.")
    if isinstance(most, bool) or not isinstance(most, int) or most < 2:
        raise InputError(f"most={most!r} cannot be used: expected 2 bars or more.")
    target = None if path is None else checked_path(path)
    with drawing("shares"):
        from gradgraph.charts.bars import bar_figure

        figure = bar_figure(curvature, by, most, colors, title)
        return figure if target is None else write(figure, target)
