"""Whether `dot` can lay a picture out in reasonable time, told before trying.

Graphviz's `dot` puts every node on a rank, and gives an edge that passes over ranks a place on each of them. Time
follows the number of places, boxes and those: measured with both engines, 2,000 boxes without long edges take 2 s,
4,000 places 4 s, 7,500 take 7 to 34 s, 10,000 over a minute. The default limits leave room for slower machines.
Lanes have no limit: their time is linear.
"""

from __future__ import annotations

from gradgraph.errors import InputError, RenderError
from gradgraph.render.picture import Picture

__all__ = ["MAX_BOXES", "check_size", "count_passes", "is_moderate"]

#: Boxes that `dot` lays out at most, unless more is asked for.
MAX_BOXES = 2500

_PLACES_PER_BOX = 2  # how many places are laid out at most, for each box of the limit
_MODERATE = 1200  # places that `dot` lays out in a second or two

_ADVICE = (
    "Use layout='lanes', which has no limit; fold the graph (fold='auto'); write .dot or .json instead; draw a part, "
    "graph.subgraph(keys).render(...); or raise max_boxes= and timeout=."
)


def check_size(picture: Picture, max_boxes: int) -> None:
    """Refuse a picture that `dot` would not lay out in time. Linear in boxes and arrows.

    Raises:
        InputError: `max_boxes` is no positive number.
        RenderError: the picture is too large, or too tangled.
    """
    if max_boxes < 1:
        raise InputError(f"max_boxes={max_boxes!r} is no limit: expected a positive number.")
    boxes = len(picture.boxes)
    if boxes > max_boxes:
        raise RenderError(
            f"the graph is too large to lay out: {boxes:,} boxes, and at most max_boxes={max_boxes:,} are drawn. "
            f"{_ADVICE}"
        )
    places = boxes + count_passes(picture)
    if places > _PLACES_PER_BOX * max_boxes:
        raise RenderError(
            f"the graph is too tangled to lay out: {boxes:,} boxes, and long edges that need {places - boxes:,} places "
            f"between them; at most {_PLACES_PER_BOX * max_boxes:,} places in all are laid out with "
            f"max_boxes={max_boxes:,}. {_ADVICE}"
        )


def is_moderate(picture: Picture, max_boxes: int) -> bool:
    """Whether `dot` lays the picture out while one waits."""
    most = min(_MODERATE, _PLACES_PER_BOX * max_boxes)
    return len(picture.boxes) <= min(max_boxes, most) and len(picture.boxes) + count_passes(picture) <= most


def count_passes(picture: Picture) -> int:
    """How many times an arrow passes over a rank, each box standing as low as what it leads to lets it."""
    stubs = {box.key for box in picture.boxes if box.stub}  # beside each of their uses
    children: dict[str, list[str]] = {box.key: [] for box in picture.boxes}
    waiting = dict.fromkeys(children, 0)
    for arrow in picture.arrows:
        if arrow.head not in stubs and arrow.role != "mark":
            children[arrow.tail].append(arrow.head)
            waiting[arrow.head] += 1
    order = [key for key, count in waiting.items() if not count]
    depth = dict.fromkeys(children, 0)
    for key in order:  # grows while it is walked
        for child in children[key]:
            depth[child] = max(depth[child], depth[key] + 1)
            waiting[child] -= 1
            if not waiting[child]:
                order.append(child)
    if len(order) < len(children):  # a cycle: no autograd graph, yet drawable
        return 0
    rank: dict[str, int] = {}
    for key in reversed(order):
        rank[key] = min((rank[child] - 1 for child in children[key]), default=depth[key])
    return sum(rank[child] - rank[key] - 1 for key in order for child in children[key])
