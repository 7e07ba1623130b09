"""SVG elements in the small language that `pdf` understands: polygons, paths of M, L, C and Z, and one-line texts.

Every attribute stands at its own element, and every coordinate is in points, y downwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["Place", "curve", "octagon", "polygon", "rectangle", "rounded", "text"]

Place = tuple[float, float]

_KAPPA = 0.4477152502  # 1 − 0.55228…: how far a quarter circle's control points are from its corner, in radii


def _n(value: float) -> str:
    """A coordinate to a tenth of a point.

    >>> _n(12.04), _n(-0.04), _n(3.25)
    ('12', '0', '3.2')
    """
    shown = f"{value:.1f}"
    if shown.endswith(".0"):
        shown = shown[:-2]
    return "0" if shown == "-0" else shown


def _paint(fill: str, stroke: str, width: float, dash: str) -> str:
    look = f'fill="{fill}" stroke="{stroke}"'
    if stroke != "none" and width != 1:
        look += f' stroke-width="{width:g}"'
    return f'{look} stroke-dasharray="{dash}"' if dash else look


def polygon(points: Iterable[Place], fill: str, stroke: str = "none", width: float = 1.0, dash: str = "") -> str:
    """A closed outline with straight sides."""
    where = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return f'<polygon {_paint(fill, stroke, width, dash)} points="{where}"/>'


def rectangle(
    left: float,
    top: float,
    right: float,
    bottom: float,
    fill: str,
    stroke: str = "none",
    width: float = 1.0,
    dash: str = "",
) -> str:
    """A rectangle with sharp corners."""
    return polygon(((left, top), (right, top), (right, bottom), (left, bottom)), fill, stroke, width, dash)


def octagon(left: float, top: float, right: float, bottom: float, fill: str, stroke: str, width: float) -> str:
    """An octagon within a rectangle."""
    dx, dy = (right - left) * 0.29, (bottom - top) * 0.29
    corners = [(left + dx, top), (right - dx, top), (right, top + dy), (right, bottom - dy)]
    corners += [(right - dx, bottom), (left + dx, bottom), (left, bottom - dy), (left, top + dy)]
    return polygon(corners, fill, stroke, width)


def rounded(
    left: float,
    top: float,
    right: float,
    bottom: float,
    radius: float,
    fill: str,
    stroke: str = "none",
    width: float = 1.0,
    dash: str = "",
    opacity: float = 1.0,
) -> str:
    """A rectangle with round corners. `opacity` is that of the fill."""
    r = min(radius, (right - left) / 2, (bottom - top) / 2)
    k = r * _KAPPA
    x0, x1, y0, y1 = _n(left), _n(right), _n(top), _n(bottom)
    outline = (
        f"M{_n(left + r)},{y0}L{_n(right - r)},{y0}C{_n(right - k)},{y0} {x1},{_n(top + k)} {x1},{_n(top + r)}"
        f"L{x1},{_n(bottom - r)}C{x1},{_n(bottom - k)} {_n(right - k)},{y1} {_n(right - r)},{y1}"
        f"L{_n(left + r)},{y1}C{_n(left + k)},{y1} {x0},{_n(bottom - k)} {x0},{_n(bottom - r)}"
        f"L{x0},{_n(top + r)}C{x0},{_n(top + k)} {_n(left + k)},{y0} {_n(left + r)},{y0}Z"
    )
    faint = f' fill-opacity="{opacity:g}"' if opacity != 1 else ""
    return f'<path {_paint(fill, stroke, width, dash)}{faint} d="{outline}"/>'


def curve(points: Iterable[Place], stroke: str, width: float = 1.0, dash: str = "") -> str:
    """An open Bezier curve through 3n + 1 control points."""
    first, *rest = (f"{_n(x)},{_n(y)}" for x, y in points)
    return f'<path {_paint("none", stroke, width, dash)} d="M{first}C{" ".join(rest)}"/>'


def text(shown: str, x: float, y: float, size: float, fill: str, *, bold: bool = False, anchor: str = "middle") -> str:
    """One line of text; `x` is its middle, or what `anchor` says, `y` its baseline."""
    weight = ' font-weight="bold"' if bold else ""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    place = f'x="{_n(x)}" y="{_n(y)}" font-size="{size:g}"'
    return f'<text {place}{weight}{where} fill="{fill}">{escape(shown, quote=False)}</text>'
