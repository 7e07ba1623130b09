"""`render`: an autograd graph as a picture in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gradgraph.errors import InputError
from gradgraph.files import write_whole
from gradgraph.render.size import MAX_BOXES

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph
    from gradgraph.render.measures import MeasureName
    from gradgraph.render.picture import Picture

__all__ = ["FORMATS", "render", "to_dot", "to_svg"]

#: What `render` writes, by suffix.
FORMATS = ("png", "svg", "pdf", "dot")


def render(
    graph: AutogradGraph,
    path: str | os.PathLike[str],
    *,
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
    dpi: float = 144.0,
) -> Path:
    """Draw a graph into a file, whole or not at all; an existing file is replaced.

    Operations are boxes, coloured by derivative order; edges follow the backward pass, those that carry curvature
    dashed. Leaves are drawn once for each operation that uses them.

    Args:
        graph: what to draw.
        path: the file; its suffix gives the format.
        format: `png`, `svg`, `pdf` or `dot`, where the suffix does not say it.
        theme: `light` or `dark`.
        gradients: show the gradient statistics and the ledger of `.grad` that the nodes carry; None: if they carry
            any. Nothing is computed here: see `gradgraph.gradients` and `gradgraph.annotate`.
        hessian: show the Hessian diagonals that the leaves carry; None: if they carry any.
        saved: show what each node saved for its backward.
        color: what fills the boxes: `order`, or a measure that the nodes carry: `gradient`, `hessian_diagonal`,
            `curvature` or `saved_bytes`.
        title: a heading.
        engine: `dot`, the installed Graphviz; `embedded`, the one that comes with the package; `auto`, the first of
            them that is there.
        timeout: seconds that an engine may take.
        max_boxes: the most boxes to lay out, and half the most places that boxes and long edges may take; DOT files
            are written at any size.
        dpi: pixels per inch of a PNG.

    Returns:
        The path of the file.

    Raises:
        InputError: an unknown format, theme or measure, annotations asked for that no node carries, or a path that
            cannot be written.
        RenderError: the graph is too large to lay out, or no engine succeeds.

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
    options = {"gradients": gradients, "hessian": hessian, "saved": saved, "color": color, "title": title}
    if chosen == "dot":
        content = to_dot(graph, theme=theme, **options).encode()
    else:
        content = _draw(
            graph, chosen, theme=theme, engine=engine, timeout=timeout, max_boxes=max_boxes, dpi=dpi, **options
        )
    return write_whole(target, content)


def to_dot(graph: AutogradGraph, *, theme: str = "light", **options: Any) -> str:
    """The graph in the DOT language, of any size. Options as in `render`."""
    from gradgraph.render.dot import dot_of
    from gradgraph.render.theme import theme_called

    return dot_of(_picture(graph, **options), theme_called(theme))


def to_svg(
    graph: AutogradGraph,
    *,
    theme: str = "light",
    engine: str = "auto",
    timeout: float = 20.0,
    max_boxes: int = MAX_BOXES,
    **options: Any,
) -> str:
    """The graph as SVG. Options and errors as in `render`."""
    drawn = _draw(graph, "svg", theme=theme, engine=engine, timeout=timeout, max_boxes=max_boxes, dpi=144.0, **options)
    return drawn.decode()


def _draw(
    graph: AutogradGraph,
    chosen: str,
    *,
    theme: str,
    engine: str,
    timeout: float,
    max_boxes: int,
    dpi: float,
    **options: Any,
) -> bytes:
    from gradgraph.render.dot import dot_of
    from gradgraph.render.image import draw
    from gradgraph.render.lettering import lettered
    from gradgraph.render.size import check_size
    from gradgraph.render.theme import theme_called

    colors = theme_called(theme)
    check_size(graph, max_boxes)
    picture = _picture(graph, **options)
    return draw(
        dot_of(picture, colors), chosen, engine=engine, timeout=timeout, dpi=dpi, finish=lettered(picture, colors)
    )


def _picture(
    graph: AutogradGraph,
    *,
    gradients: bool | None = None,
    hessian: bool | None = None,
    saved: bool = False,
    color: Literal["order"] | MeasureName = "order",
    title: str | None = None,
) -> Picture:
    from gradgraph.render.compose import picture_of
    from gradgraph.render.lines import Show

    show = Show(
        gradients=_wanted(graph, "gradients", gradients, ("gradient", "accumulated")),
        hessian=_wanted(graph, "hessian", hessian, ("hessian_diagonal",)),
        saved=saved,
        device=len({out["device"] for _, data in graph.nodes(data=True) for out in data.get("outputs") or []}) > 1,
    )
    return picture_of(graph, show, color=color, title=title)


def _wanted(graph: AutogradGraph, option: str, asked: bool | None, attributes: tuple[str, ...]) -> bool:
    """Whether to show annotations: as asked, else if there are any."""
    if asked is False:
        return False
    carried = any(data.get(name) is not None for _, data in graph.nodes(data=True) for name in attributes)
    if asked and not carried:
        raise InputError(
            f"{option}=True asks for annotations that no node carries (expected {' or '.join(attributes)}); compute "
            f"them and write them with gradgraph.annotate(graph, {attributes[0]!r}, ...) first."
        )
    return carried


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
