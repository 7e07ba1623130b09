"""`render`: an autograd graph as a picture in a file."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gradgraph.errors import InputError
from gradgraph.files import write_whole
from gradgraph.render.size import MAX_BOXES

if TYPE_CHECKING:
    import networkx as nx

    from gradgraph.graph import AutogradGraph
    from gradgraph.render.measures import MeasureName
    from gradgraph.render.picture import Picture
    from gradgraph.render.places import LayoutName
    from gradgraph.render.subject import FoldName
    from gradgraph.view import View

    Drawable = nx.MultiDiGraph[int]

__all__ = ["ENGINES", "FORMATS", "render", "to_dot", "to_svg"]

#: What `render` writes, by suffix.
FORMATS = ("png", "svg", "pdf", "dot")

#: What lays out for the layout `dot`.
ENGINES = ("auto", "dot", "embedded")


def render(
    graph: AutogradGraph | View,
    path: str | os.PathLike[str],
    *,
    fold: FoldName = "auto",
    depth: int | None = None,
    expand: Iterable[str] | str = (),
    focus: int | str | None = None,
    hops: int = 2,
    order: int | Collection[int] | None = None,
    max_nodes: int | None = None,
    layout: LayoutName = "auto",
    format: str | None = None,  # noqa: A002
    theme: str = "light",
    gradients: bool | None = None,
    hessian: bool | None = None,
    saved: bool = False,
    color: Literal["order"] | MeasureName = "order",
    title: str | None = None,
    engine: str = "auto",
    timeout: float = 20.0,
    max_boxes: int = MAX_BOXES,
    dpi: float | None = None,
) -> Path:
    """Draw a graph into a file, whole or not at all; an existing file is replaced.

    Operations are boxes, coloured by derivative order; edges follow the backward pass, those that carry curvature
    dashed. Leaves are drawn once for each operation that uses them. Several orders stand in lanes beside each other,
    each operation in the row of the one whose backward made it.

    Args:
        graph: what to draw; a `View` is drawn as it is.
        path: the file; its suffix gives the format.
        fold: how nodes become boxes that stand for many: `none`, `module`, `line`, `repeat`, `chain`; `auto` leaves a
            graph of up to `max_nodes` nodes as it is, and folds a larger one to as many boxes. See `gradgraph.fold`.
        depth: of a fold by module: how many parts of a module's path tell boxes apart.
        expand: labels of folded boxes that are shown opened.
        focus: a node, by key or name: only what is near it is drawn.
        hops: how near, in edges.
        order: only nodes of this derivative order, or of these.
        max_nodes: 150, unless a `depth` is given.
        layout: `lanes`, or `dot`, one layered drawing of all orders; `auto` is `dot` for a picture of one order that
            is not large, and lanes if no engine can draw that.
        format: `png`, `svg`, `pdf` or `dot`, where the suffix does not say it.
        theme: `light` or `dark`.
        gradients: show the gradient statistics and the ledger of `.grad` that the nodes carry; None: if they carry
            any. Nothing is computed here: see `gradgraph.gradients` and `gradgraph.annotate`.
        hessian: show the Hessian diagonals that the leaves carry; None: if they carry any.
        saved: show what each node saved for its backward.
        color: what fills the boxes: `order`, or a measure that the nodes carry: `gradient`, `hessian_diagonal`,
            `curvature` or `saved_bytes`. Of a folded box, the highest norm, the entry farthest from zero, the sums.
        title: a heading.
        engine: what lays out for `dot`: `dot`, the installed Graphviz; `embedded`, the one that comes with the
            package; `auto`, the first of them that is there.
        timeout: seconds that an engine may take.
        max_boxes: the most boxes for `layout="dot"`, and half the most places that boxes and long edges may take.
        dpi: pixels per inch of a PNG; None: 144, or less for a large picture, down to 80. One too large for that is
            drawn smaller, with a warning, while its text stays legible; beyond, `path` is an overview, with pages
            `NAME-1.png`, `NAME-2.png`, ... beside it.

    Returns:
        The path of the file.

    Raises:
        InputError: an unknown option, annotations asked for that no node carries, or a path that cannot be written.
        RenderError: the graph is too large for `dot`, or no engine succeeds.

    Example:
        >>> import tempfile, torch, gradgraph
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> graph = gradgraph.trace(x * x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     gradgraph.render(graph, f"{folder}/square.svg", title="x squared").name
        'square.svg'
    """
    target = Path(path)
    chosen = _format(target, format)
    _check_folder(target)
    if dpi is not None:
        _check_number("dpi", dpi)
    options: dict[str, Any] = {
        "fold": fold,
        "depth": depth,
        "expand": expand,
        "focus": focus,
        "hops": hops,
        "order": order,
        "max_nodes": max_nodes,
        "layout": layout,
        "theme": theme,
        "gradients": gradients,
        "hessian": hessian,
        "saved": saved,
        "color": color,
        "title": title,
        "engine": engine,
        "timeout": timeout,
        "max_boxes": max_boxes,
    }
    if chosen == "dot":
        return write_whole(target, to_dot(graph, **options).encode())
    svg = to_svg(graph, **options)
    if chosen == "svg":
        return write_whole(target, svg.encode())
    if chosen == "pdf":
        from gradgraph.render.pdf import svg_to_pdf

        return write_whole(target, svg_to_pdf(svg.encode()))
    return _write_pages(target, svg, dpi=dpi, timeout=timeout)


def to_dot(graph: AutogradGraph | View, *, theme: str = "light", **options: Any) -> str:
    """The graph in the DOT language, of any size. In lanes it carries the places: `neato -n2` draws it.

    Options as in `render`.
    """
    from gradgraph.render.dot import dot_of
    from gradgraph.render.places import layout_of, placed
    from gradgraph.render.theme import theme_called

    colors = theme_called(theme)
    layout, engine, timeout, max_boxes = _engine_options(options)
    picture = _picture(graph, **options)
    if layout_of(picture, layout, max_boxes) == "dot":
        return dot_of(picture, colors)
    picture, places = placed(picture, "lanes", engine=engine, timeout=timeout, max_boxes=max_boxes)
    return dot_of(picture, colors, places)


def to_svg(graph: AutogradGraph | View, *, theme: str = "light", **options: Any) -> str:
    """The graph as SVG. Options and errors as in `render`."""
    from gradgraph.render.places import placed
    from gradgraph.render.svg import svg_of
    from gradgraph.render.theme import theme_called

    colors = theme_called(theme)
    layout, engine, timeout, max_boxes = _engine_options(options)
    picture = _picture(graph, **options)
    picture, places = placed(picture, layout, engine=engine, timeout=timeout, max_boxes=max_boxes)
    return svg_of(picture, places, colors)


def _engine_options(options: dict[str, Any]) -> tuple[LayoutName, str, float, int]:
    """Take those that places need out of all options."""
    layout, engine = options.pop("layout", "auto"), options.pop("engine", "auto")
    timeout, max_boxes = options.pop("timeout", 20.0), options.pop("max_boxes", MAX_BOXES)
    _check_number("timeout", timeout)
    if engine not in ENGINES:
        raise InputError(f"engine={engine!r} is not known: expected one of {', '.join(ENGINES)}.")
    return layout, engine, timeout, max_boxes


def _picture(
    graph: AutogradGraph | View,
    *,
    gradients: bool | None = None,
    hessian: bool | None = None,
    saved: bool = False,
    color: Literal["order"] | MeasureName = "order",
    title: str | None = None,
    **choice: Any,
) -> Picture:
    from gradgraph.render.compose import picture_of
    from gradgraph.render.lines import Show
    from gradgraph.render.shares import curvature_words
    from gradgraph.render.subject import subject_of
    from gradgraph.shares import about_curvature, shares_words

    drawn, captions = subject_of(graph, **choice)
    nodes = drawn.nodes.values()
    # Of the whole graph: shares do not change with what is shown of it.
    curvature = about_curvature(graph.nodes.values(), graph.graph) or {}
    words = curvature_words(curvature) if curvature.get("of") else None
    captions = (*filter(None, (words, shares_words(curvature.get("total"), curvature.get("magnitude")))), *captions)
    show = Show(
        gradients=_wanted(drawn, "gradients", gradients, ("gradient", "accumulated", "gradient_range")),
        hessian=_wanted(drawn, "hessian", hessian, ("hessian_diagonal", "hessian_range")),
        saved=saved,
        device=len({out["device"] for data in nodes for out in data.get("outputs") or []}) > 1,
        curvature=curvature.get("magnitude"),
        called_again=frozenset(str(data["module"]) for data in nodes if (data.get("module_call") or 1) > 1),
    )
    return picture_of(drawn, show, color=color, title=title, captions=captions)


def _wanted(graph: Drawable, option: str, asked: bool | None, attributes: tuple[str, ...]) -> bool:
    """Whether to show annotations: as asked, else if there are any."""
    if asked is False:
        return False
    carried = any(data.get(name) is not None for data in graph.nodes.values() for name in attributes)
    if asked and not carried:
        raise InputError(
            f"{option}=True asks for annotations that no node carries (expected {' or '.join(attributes[:2])}); "
            f"compute them and write them with gradgraph.annotate(graph, {attributes[0]!r}, ...) first."
        )
    return carried


def _write_pages(target: Path, svg: str, *, dpi: float | None, timeout: float) -> Path:
    """All pages are drawn before the first is written."""
    from gradgraph.render.pages import paged, png_pages

    first, *pages = png_pages(svg, dpi=dpi, timeout=timeout)
    names = [target.with_name(f"{target.stem}-{number}{target.suffix}") for number in range(1, len(pages) + 1)]
    for name in names:
        _check_folder(name)
    for name, content in zip(names, pages, strict=True):
        write_whole(name, content)
    if names:
        warnings.warn(paged([str(target), *map(str, names)]), UserWarning, stacklevel=3)
    return write_whole(target, first)


def _check_number(option: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value > 0 and math.isfinite(value)):
        raise InputError(f"{option}={value!r} cannot be used: expected a positive number.")


def _format(path: Path, asked: str | None) -> str:
    chosen = (path.suffix.removeprefix(".") if asked is None else asked).lower()
    if chosen not in FORMATS:
        got = (
            f"format={asked!r}" if asked is not None else f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        )
        known = ", ".join(f".{known}" for known in FORMATS)
        raise InputError(f"cannot tell what to write to {str(path)!r}: expected {known}, got {got}.")
    return chosen


def _check_folder(path: Path) -> None:
    """Before minutes of drawing rather than after."""
    if path.is_dir():
        raise InputError(f"cannot write to {str(path)!r}: it is a folder; give the path of a file.")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path.name!r}: there is no folder {str(path.parent)!r}; make it first.")
