"""PNGs of a readable size: one, or, of a picture too large for that, an overview and numbered pages."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence

from gradgraph.errors import RenderError
from gradgraph.render.engines import rasterise
from gradgraph.render.font import FONT_FAMILY, face, font_files

__all__ = ["USUAL_DPI", "bands", "one_png", "paged", "png_pages"]

# resvg refuses longer sides; 10^6 pixels take it 0.1 to 0.15 s and 8 MB, so that this many stay within the time limit.
_LONGEST_SIDE_PX = 32_767
_MOST_PIXELS = 64_000_000
#: Pixels per inch of a PNG where nothing else is asked for and the picture is small enough.
USUAL_DPI = 144.0
# Larger pictures have fewer, as long as text of 9 pt is 10 pixels high and the PNG takes more than a second or two.
_EASY_PIXELS = 12_000_000
_EASY_DPI = 80.0
# Below this, text of 9 pt is under 8 pixels high, and no longer read with ease.
_LEAST_DPI = 60.0
# What viewers scroll through with ease.
_PAGE_PIXELS = 24_000_000
_PAGE_SIDE_PX = 10_000
_MOST_PAGES = 24
_OVERLAP = 72.0  # points that a page repeats of the one before

_SIZE = re.compile(r'<svg width="([0-9.]+)pt" height="([0-9.]+)pt"\s+viewBox="([^"]*)"')
_TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


def png_pages(svg: str, *, dpi: float | None, timeout: float) -> list[bytes]:
    """One PNG; or an overview of a picture that would not be legible as one, and after it the pages.

    Args:
        svg: with a size in pt.
        dpi: pixels per inch; lowered, with a warning, as far as text stays legible. None: what suits the size.
        timeout: seconds that each may take.

    Raises:
        RenderError: no PNG of a sensible number of pages holds it.
    """
    width, height = _size(svg)
    if dpi is None:
        dpi = min(USUAL_DPI, max(_EASY_DPI, _largest(width, height, _EASY_PIXELS)))
    one = one_png(svg, dpi=dpi, timeout=timeout, stacklevel=5)
    if one is not None:
        return [one]
    page_dpi = min(_EASY_DPI, dpi)
    found = bands(width, height, page_dpi)
    if len(found) > _MOST_PAGES:
        raise RenderError(
            f"The page is too large for a legible PNG: {_limit(width, height, dpi)}, and as pages of "
            f"{page_dpi:g} dpi it would be {len(found):,} files (at most {_MOST_PAGES}). Write .svg or .pdf "
            "instead, which have no limit; or show less: fold='auto', focus=NODE, order=0."
        )
    small = min(_largest(width, height, _PAGE_PIXELS), 72 * _PAGE_SIDE_PX / max(width, height))
    return [_png(svg, small * 0.999, timeout), *(_png(_cropped(svg, band), page_dpi, timeout) for band in found)]


def one_png(svg: str, *, dpi: float, timeout: float, stacklevel: int = 3) -> bytes | None:
    """One PNG, smaller than asked for where a PNG has no room, with a warning; None where it would not be legible."""
    width, height = _size(svg)
    largest = _largest(width, height, _MOST_PIXELS)
    if dpi <= largest:
        return _png(svg, dpi, timeout)
    if largest < min(_LEAST_DPI, dpi):
        return None
    warnings.warn(
        f"The picture is smaller than asked for: {_limit(width, height, dpi)}; it is drawn at {largest:.0f} dpi. Write "
        ".svg or .pdf for full size.",
        UserWarning,
        stacklevel=stacklevel,
    )
    return _png(svg, largest * 0.999, timeout)  # resvg rounds up


def _limit(width: float, height: float, dpi: float) -> str:
    """What a PNG has room for, and what this picture takes."""
    page = f"{width / 72 * dpi:,.0f} × {height / 72 * dpi:,.0f} pixels at {dpi:g} dpi"
    limit = f"a PNG has at most {_LONGEST_SIDE_PX:,} pixels a side and {_MOST_PIXELS:,} in all"
    return f"{limit}, this one would have {page}"


def paged(names: Sequence[str]) -> str:
    """The warning that a picture became several files."""
    return (
        f"The picture is too large for one legible PNG: {names[0]} is an overview, and {names[1]} to {names[-1]} are "
        f"its {len(names) - 1} pages, row by row. Write .svg or .pdf for one page; or show less: fold='auto', "
        "focus=NODE, order=0."
    )


def bands(width: float, height: float, dpi: float) -> list[tuple[float, float, float, float]]:
    """The pages of a picture in points: rectangles (left, top, width, height), row by row, overlapping a little."""
    side = _PAGE_SIDE_PX * 72 / dpi
    across = min(width, side)
    down = min(height, side, _PAGE_PIXELS * (72 / dpi) ** 2 / across)
    return [(left, top, across, down) for top in _starts(height, down) for left in _starts(width, across)]


def _starts(whole: float, part: float) -> list[float]:
    """Where parts begin that cover a length, spread evenly."""
    if part >= whole:
        return [0.0]
    count = math.ceil((whole - _OVERLAP) / (part - _OVERLAP))
    return [index * (whole - part) / (count - 1) for index in range(count)]


def _size(svg: str) -> tuple[float, float]:
    found = _SIZE.search(svg)
    if found is None:
        raise RenderError("The PNG cannot be made: expected an SVG with a size in pt, got none. Write .svg instead.")
    return float(found[1]), float(found[2])


def _largest(width: float, height: float, pixels: int) -> float:
    """The most pixels per inch that a PNG of this many pixels has room for; width and height in points."""
    return 72 * min(_LONGEST_SIDE_PX / max(width, height), math.sqrt(pixels / (width * height)))


def _cropped(svg: str, band: tuple[float, float, float, float]) -> str:
    left, top, width, height = band
    start = (
        f'<svg width="{width:.2f}pt" height="{height:.2f}pt" viewBox="{left:.2f} {top:.2f} {width:.2f} {height:.2f}"'
    )
    return _SIZE.sub(start, svg, count=1)


def _png(svg: str, dpi: float, timeout: float) -> bytes:
    return rasterise(
        svg.encode("utf-8"),
        dpi=dpi,
        fonts=font_files(),
        # Scripts that the shipped font lacks come from the machine's fonts; without need those would only cost time.
        system_fonts=not face().glyphs.keys() >= set(map(ord, set("".join(_TEXT.findall(svg))))),
        family=FONT_FAMILY.partition(",")[0],
        timeout=timeout,
    )
