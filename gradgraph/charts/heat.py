"""The heat map of a Hessian."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, SymLogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from gradgraph.charts.canvas import SIZES, ends, plain, signed
from gradgraph.charts.figure import Chart
from gradgraph.charts.pooling import Matrix, cells_of, largest_block, pooled, starts_of
from gradgraph.errors import InputError
from gradgraph.render.theme import Theme, mixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gradgraph.curvature import HessianBlocks

__all__ = ["heat_figure"]

_MOST_WHOLE = 920  # entries a side up to which each has a cell, of one pixel at least
_MOST_CELLS = 460  # a side of what is pooled: of two pixels each, which the eye can tell apart
_MOST_NUMBERED = 12  # entries a side up to which they are written into their cells
_SIDE = 6.4  # inches of the matrix
_MARGINS = (1.45, 0.8, 0.75)  # inches to its right, above and below


def heat_figure(blocks: HessianBlocks, theme: Theme, title: str | None) -> Figure:
    """The matrix with its names, its scale and what has to be said about it."""
    sizes = {name: size for name, size in blocks.sizes.items() if size}
    if not sizes:
        raise InputError("heat_map expected a Hessian with entries, got one whose parameters are all empty.")
    cells = cells_of(sizes, _MOST_CELLS if sum(sizes.values()) > _MOST_WHOLE else _MOST_WHOLE)
    names = list(sizes)
    bounds = starts_of([cells[name] for name in names])
    picture, known = _picture(blocks, names, cells)
    right, above, below = _MARGINS
    left = 0.075 * max(len(_short(name)) for name in names) + 0.45
    width, height = left + _SIDE + right, below + _SIDE + above
    figure = Chart(figsize=(width, height), facecolor=theme.background)
    axes = figure.add_axes((left / width, below / height, _SIDE / width, _SIDE / height))
    plain(axes, theme)
    norm, decades = _scale(picture)
    low, high = ends(theme)
    shades = [low, theme.diverging[0], theme.diverging[len(theme.diverging) // 2], theme.diverging[-1], high]
    # What is not finite: far from both ends of the scale.
    colors = LinearSegmentedColormap.from_list("diverging", shades).with_extremes(bad=theme.text)
    masked = np.where(known, picture, 0.0)
    axes.imshow(masked, cmap=colors, norm=norm, interpolation="none", extent=(0, bounds[-1], bounds[-1], 0))
    _hatch(axes, bounds, known, theme)
    if bounds[-1] <= _MOST_NUMBERED:
        _number(axes, masked, known, norm, colors)
    _borders(axes, bounds, theme)
    unnamed = _name(axes, names, bounds, theme)
    total = sum(sizes.values())
    axes.set_title(
        title or f"Hessian, {total:,} × {total:,} entries", loc="left", fontsize=SIZES[0], color=theme.text, pad=12
    )
    _legend(figure, axes, ScalarMappable(norm, colors), decades, theme)
    notes = _notes(picture, known, largest_block(sizes, cells), unnamed, "black" if theme.name == "light" else "white")
    figure.text(left / width, 0.5 / height, "\n".join(notes), fontsize=SIZES[2], color=theme.quiet, va="top")
    return figure


def _picture(blocks: HessianBlocks, names: list[str], cells: dict[str, int]) -> tuple[Matrix, Any]:
    """The cells, and which of them stand for computed entries."""
    bounds = starts_of([cells[name] for name in names])
    picture = np.zeros((bounds[-1], bounds[-1]))
    known = np.zeros(picture.shape, dtype=bool)
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            block = blocks.block(row, column)
            if block is not None:
                place = (slice(bounds[i], bounds[i + 1]), slice(bounds[j], bounds[j + 1]))
                entries = block.detach().cpu().double().numpy()
                picture[place] = pooled(entries, cells[row], cells[column])
                known[place] = True
    return picture, known


def _scale(picture: Matrix) -> tuple[Normalize, int]:
    """Symmetric about zero; where most of what is not zero would look like zero logarithmic, over so many decades."""
    sizes = np.abs(picture[np.isfinite(picture) & (picture != 0)])
    top = float(sizes.max()) if sizes.size else 1.0
    if sizes.size and float(np.median(sizes)) < top / 50:
        decades = min(5, max(2, round(float(np.log10(top / np.quantile(sizes, 0.25))))))
        return SymLogNorm(linthresh=top / 10**decades, vmin=-top, vmax=top, base=10), decades
    return Normalize(-top, top), 0


def _hatch(axes: Axes, bounds: list[int], known: Any, theme: Theme) -> None:
    """Mark the blocks that were not computed."""
    for i, top in enumerate(bounds[:-1]):
        for j, left in enumerate(bounds[:-1]):
            if not known[top, left]:
                axes.add_patch(
                    Rectangle(
                        (left, top),
                        bounds[j + 1] - left,
                        bounds[i + 1] - top,
                        facecolor=theme.background,
                        edgecolor=mixed(theme.quiet, theme.background, 0.35),
                        hatch="////",
                        linewidth=0,
                    )
                )


def _number(axes: Axes, picture: Matrix, known: Any, norm: Normalize, colors: Colormap) -> None:
    for (row, column), value in np.ndenumerate(picture):
        if known[row, column]:
            red, green, blue = to_rgb(colors(norm(value)))
            ink = "#1b1f24" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "#ffffff"
            size = min(SIZES[1] + 2, 90 / len(picture))
            axes.text(column + 0.5, row + 0.5, signed(value, ""), ha="center", va="center", fontsize=size, color=ink)


def _borders(axes: Axes, bounds: list[int], theme: Theme) -> None:
    width = 0.8 if len(bounds) <= 20 else 0.4
    color = mixed(theme.quiet, theme.background, 0.6)
    for bound in bounds:
        for line in (axes.axhline, axes.axvline):
            line(bound, color=color, linewidth=width, clip_on=False)


def _name(axes: Axes, names: list[str], bounds: list[int], theme: Theme) -> int:
    """Write names beside the rows and under the columns, none over another. How many had no room."""
    end = bounds[-1]
    line = SIZES[1] * 1.25 / 72 / _SIDE * end  # the height of a line of text, in cells
    room = int(end // line)
    by_size = sorted(range(len(names)), key=lambda at: bounds[at] - bounds[at + 1])
    shown = sorted(by_size[:room])
    middles = [(bounds[at] + bounds[at + 1]) / 2 for at in shown]
    places = _apart(middles, line, end)
    axes.set_xticks([])
    axes.set_yticks([])
    near, far = 0.012 * end, 0.035 * end
    leader: dict[str, Any] = {"color": mixed(theme.quiet, theme.background, 0.6), "linewidth": 0.6, "clip_on": False}
    for at, middle, place in zip(shown, middles, places, strict=True):
        style: dict[str, Any] = {"fontsize": SIZES[1], "color": theme.text, "clip_on": False}
        axes.text(-far, place, _short(names[at]), ha="right", va="center", **style)
        axes.plot([-far * 0.9, -near, 0], [place, middle, middle], **leader)
    axes.set_xlim(0, end)
    axes.set_ylim(end, 0)
    return len(names) - len(shown)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:8]}…{name[-13:]}"


def _apart(middles: list[float], line: float, end: float) -> list[float]:
    """Places in the order of `middles` and near them, `line` or more from each other, between 0 and `end`."""
    places: list[float] = []
    for middle in middles:
        places.append(max(middle, places[-1] + line if places else line / 2))
    limit = end - line / 2
    for at in reversed(range(len(places))):
        places[at] = min(places[at], limit)
        limit = places[at] - line
    return places


def _legend(figure: Figure, axes: Axes, scale: ScalarMappable, decades: int, theme: Theme) -> None:
    box = axes.get_position()
    bar = figure.add_axes((box.x1 + 0.03, box.y0 + box.height * 0.2, 0.018, box.height * 0.6))
    colorbar = figure.colorbar(scale, cax=bar)
    if decades:
        top = float(np.max(scale.get_clim()))
        colorbar.set_ticks([sign * top * 10.0**-step for sign in (-1, 1) for step in range(decades + 1)] + [0.0])
        colorbar.minorticks_off()
    colorbar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value, "")))
    colorbar.outline.set_visible(False)
    bar.tick_params(colors=theme.text, labelsize=SIZES[1], length=3)
    bar.set_title("entry, log" if decades else "entry", fontsize=SIZES[1], color=theme.text, loc="left", pad=8)


def _notes(picture: Matrix, known: Any, side: int, unnamed: int, shade: str) -> list[str]:
    notes = []
    if side > 1:
        notes.append(f"Each cell is the entry of largest magnitude among up to {side} × {side}.")
    bad = int(np.isnan(picture).sum())
    if bad:
        notes.append(f"{bad:,} cells hold entries that are not finite: {shade}.")
    elif not picture.any():
        notes.append("All entries are zero.")
    if not known.all():
        notes.append('Hatched blocks were not computed: hessian(..., blocks="full").')
    if unnamed:
        notes.append(f"{unnamed} smaller parameters are not named.")
    return notes
