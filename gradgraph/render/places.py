"""Where the boxes and arrows of a picture stand: by `dot`, or in lanes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Literal, get_args

from gradgraph.errors import InputError, RenderError
from gradgraph.layout import Link, Placed, Spot, lanes
from gradgraph.render.by_dot import placed_by_dot
from gradgraph.render.picture import Picture
from gradgraph.render.size import check_size, is_moderate

__all__ = ["LayoutName", "layout_of", "placed"]

LayoutName = Literal["auto", "lanes", "dot"]

_INFERRED = "creators unknown, since nothing was recorded: rows of higher orders follow the structure"


def layout_of(picture: Picture, asked: LayoutName, max_boxes: int) -> Literal["lanes", "dot"]:
    """The layout to use: as asked, else `dot` for a moderate picture of one order, lanes for all others.

    Raises:
        InputError: `asked` is none, or `max_boxes` is no positive number.
    """
    if asked not in get_args(LayoutName):
        raise InputError(f"layout={asked!r} is not known: expected one of {', '.join(get_args(LayoutName))}.")
    if max_boxes < 1:
        raise InputError(f"max_boxes={max_boxes!r} is no limit: expected a positive number.")
    if asked != "auto":
        return asked
    orders = {box.order for box in picture.boxes if not box.leaf and box.category not in ("leaf", "root")}
    return "dot" if len(orders) <= 1 and is_moderate(picture, max_boxes) else "lanes"


def placed(
    picture: Picture, asked: LayoutName, *, engine: str, timeout: float, max_boxes: int
) -> tuple[Picture, Placed]:
    """The places, and the picture with a caption where they were guessed.

    Raises:
        InputError: `asked` is no layout, or `max_boxes` no positive number.
        RenderError: `dot` was asked for, and the picture is too large for it or no engine succeeds.
    """
    layout = layout_of(picture, asked, max_boxes)
    spots, links = _spots(picture), [Link(arrow.tail, arrow.head, arrow.role) for arrow in picture.arrows]
    if layout == "dot":
        try:
            check_size(picture, max_boxes)
            together = not picture.connected
            places = placed_by_dot(spots, links, picture.clusters, together=together, engine=engine, timeout=timeout)
        except RenderError as error:
            if asked != "auto" or engine != "auto":
                raise
            warnings.warn(f"{error} The picture is laid out in lanes instead.", RuntimeWarning, stacklevel=4)
        else:
            return picture, places
    places = lanes(spots, links)
    if places.inferred:
        picture = replace(picture, captions=(*picture.captions, _INFERRED))
    return picture, places


def _spots(picture: Picture) -> list[Spot]:
    return [
        Spot(box.key, box.width, box.height, box.order, box.creators, box.stub, box.clusters) for box in picture.boxes
    ]
