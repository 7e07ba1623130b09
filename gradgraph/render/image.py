"""DOT source to a finished SVG, PNG or PDF file.

One way for both engines: Graphviz, installed or embedded, lays out and writes SVG; the SVG is cleaned; resvg makes the
PNG of it and `pdf` the PDF, with the shipped font. So a picture depends as little as can be on the machine.
"""

import math
import re
import warnings

from gradgraph.errors import InputError, RenderError
from gradgraph.render.engines import (
    EngineInfo,
    UnusableEngineError,
    engines,
    find_dot,
    layout_embedded,
    layout_installed,
)
from gradgraph.render.font import FONT_FAMILY, FONT_FAMILY_BOLD, text_width
from gradgraph.render.pages import USUAL_DPI, one_png

__all__ = ["FONT_FAMILY", "FONT_FAMILY_BOLD", "EngineInfo", "clean_svg", "draw", "engines", "lay_out", "text_width"]

_FORMATS = ("svg", "png", "pdf")
_ENGINES = ("auto", "dot", "embedded")
_LAYOUTS = ("dot", "nop2")

_ENTITY = re.compile(r"&(?:#[0-9]+|#x[0-9a-fA-F]+|amp|lt|gt|quot|apos);")
# XML 1.0 forbids these even as references; in DOT they can only be an accident of a name. NUL would end the source.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")


def draw(
    dot_source: str,
    format: str,  # noqa: A002  # the word for it everywhere else
    *,
    engine: str = "auto",
    layout: str = "dot",
    timeout: float = 20.0,
    dpi: float = USUAL_DPI,
) -> bytes:
    """Draw a graph given in DOT.

    Args:
        dot_source: A graph or digraph in the DOT language. HTML labels are not for the embedded engine, which shows the
            node's name instead.
        format: `svg`, `png` or `pdf`.
        engine: `dot`, the installed program; `embedded`, the one that comes with the package; `auto`, the former if
            there is one, else the latter. If the installed one cannot be run, `auto` warns and uses the embedded one.
        layout: `dot`, or `nop2` where every node has its `pos` (edges may have theirs).
        timeout: Seconds that each step, layout and making the PNG, may take before its process is killed.
        dpi: Pixels per inch of a PNG; a box of 72 pt is `dpi` pixels wide. Lowered, with a warning, for a page that
            would be over 32,767 pixels long or have over 64 million.

    Returns:
        The bytes of the file: the same for the same source and engine.

    Raises:
        InputError: An option is none of those above.
        RenderError: No engine, a failing one, malformed DOT, no result in time, or a page too large to be legible.
    """
    for what, value, allowed in (
        ("format", format, _FORMATS),
        ("engine", engine, _ENGINES),
        ("layout", layout, _LAYOUTS),
    ):
        if value not in allowed:
            raise InputError(f"draw() cannot use this {what}: expected one of {', '.join(allowed)}, got {value!r}.")
    for what, number in (("timeout", timeout), ("dpi", dpi)):
        if not (number > 0 and math.isfinite(number)):
            raise InputError(f"draw() cannot use this {what}: expected a positive number, got {number!r}.")
    source = _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", dot_source).encode("utf-8")
    svg = clean_svg(lay_out(source, engine=engine, layout=layout, timeout=timeout).decode("utf-8", "replace"))
    if format == "svg":
        return svg.encode("utf-8")
    if format == "png":
        png = one_png(svg, dpi=dpi, timeout=timeout)
        if png is None:
            raise RenderError(
                f"The page is too large for a legible PNG: it has no room at {dpi:g} dpi. Write .svg or .pdf instead, "
                "or draw a part of the graph: trace an intermediate tensor, or take a subgraph."
            )
        return png
    from gradgraph.render.pdf import svg_to_pdf

    return svg_to_pdf(svg.encode("utf-8"))


def clean_svg(svg: str) -> str:
    """Make Graphviz's SVG well-formed, free of its version, and with a bold font that every reader understands."""
    svg = _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", svg)  # by a reference in DOT, `&#7;`
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!DOCTYPE[^>]*>\s*", "", svg)
    svg = svg.replace('stroke="transparent"', 'stroke="none"').replace('fill="transparent"', 'fill="none"')
    svg = re.sub(r'font-family="([^"]*?)[ ,]+bold"', r'font-family="\1" font-weight="bold"', svg, flags=re.IGNORECASE)
    # Graphviz 2.43 leaves ampersands bare in links and tooltips; entities of HTML are none of XML.
    return re.sub(r"&[#\w]*;?", lambda found: found[0] if _ENTITY.fullmatch(found[0]) else "&amp;" + found[0][1:], svg)


def lay_out(source: bytes, *, engine: str, layout: str, timeout: float) -> bytes:
    """SVG by the engine asked for. Only `auto` goes on to the embedded one, and only where that may fare better."""
    if engine == "embedded":
        return layout_embedded(source, layout=layout, timeout=timeout)
    if engine == "dot":
        return layout_installed(source, layout=layout, timeout=timeout)
    reason = None
    if find_dot() is not None:
        try:
            return layout_installed(source, layout=layout, timeout=timeout)
        except UnusableEngineError as error:
            reason = error
    try:
        svg = layout_embedded(source, layout=layout, timeout=timeout)
    except UnusableEngineError as error:
        raise RenderError(
            "No engine can draw the graph: expected an installed `dot` or the embedded Graphviz. "
            f"{reason or 'There is no executable `dot` on PATH.'} {error} Or write .dot instead, which needs neither."
        ) from error
    if reason is not None:
        warnings.warn(f"{reason} The embedded Graphviz drew the graph.", RuntimeWarning, stacklevel=3)
    return svg
