"""What is drawn: boxes of known size, arrows between them, and what is said about them. Without colours or places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import networkx as nx

from gradgraph.render.font import text_width
from gradgraph.render.lines import Line, printable, shorten
from gradgraph.render.measures import Measure

__all__ = [
    "BADGE_GAP",
    "DETAIL_PT",
    "HEAD_PT",
    "LINE_PT",
    "STACK_PT",
    "Arrow",
    "Box",
    "Cluster",
    "Picture",
    "badge_width",
    "box",
]

HEAD_PT = 10.0
DETAIL_PT = 9.0
LINE_PT = 12.0  # what Graphviz advances for each line of 10 pt
#: How far the cards of a folded box stand out below and to the right of the front one, altogether.
STACK_PT = 6.0
BADGE_GAP = 6.0
_PADDING = (9.0, 6.0)


@dataclass(frozen=True)
class Box:
    """One box. `category` is a node's `kind`, `folded`, or `root` for the small mark that points at one."""

    key: str
    lines: tuple[Line, ...]  # as drawn: cut to their place
    category: str
    order: int  # the lowest of what it stands for
    width: float  # points
    height: float
    alert: bool = False
    copy: bool = False  # one more use of a leaf that an earlier box shows in full
    measure: float | None = None
    full: str | None = None  # the whole text, where a line is cut
    times: int = 1  # how many equal parts it stands for
    highest: int | None = None  # order, where there are several
    creators: tuple[tuple[str, float], ...] = ()
    stub: bool = False  # a leaf at one of its uses
    leaf: bool = False  # also where it stands for several
    focus: bool = False  # what the picture is about
    clusters: tuple[str, ...] = ()  # outermost first


@dataclass(frozen=True)
class Arrow:
    """One edge or several, in the direction of the backward pass. `role` is an edge's, or `mark` from a root's mark."""

    tail: str
    head: str
    role: str = "gradient"
    label: str = ""  # at its tail
    count: int = 1  # how many edges it stands for
    plain: bool = False  # one edge for each of the equal parts: not worth a word


@dataclass(frozen=True)
class Cluster:
    """A group of boxes with a frame around it. `parent` is the name of the group that it lies in."""

    name: str
    label: str
    parent: str | None = None
    times: int = 1


@dataclass(frozen=True)
class Picture:
    """All that is drawn, in the order in which it is drawn."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    title: str | None = None
    measure: Measure | None = None
    clusters: tuple[Cluster, ...] = ()
    captions: tuple[str, ...] = ()  # what is folded, hidden or not known

    @property
    def connected(self) -> bool:
        """Whether the arrows join all boxes, in whatever direction."""
        joined: nx.Graph[str] = nx.Graph()
        joined.add_nodes_from(box.key for box in self.boxes)
        joined.add_edges_from((arrow.tail, arrow.head) for arrow in self.arrows)
        return len(joined) == 0 or nx.is_connected(joined)


def badge_width(times: int) -> float:
    """The width in points of the badge `×12`; 0 where there is none."""
    return text_width(f"×{times:,}", HEAD_PT, bold=True) + 10 if times > 1 else 0.0


def box(key: str, lines: list[Line], category: str, order: int, **more: Any) -> Box:
    """A box just large enough for its lines."""
    texts = tuple(Line(shorten(line.text), line.role) for line in lines)
    whole = [printable(line.full or line.text) for line in lines]
    full = None if whole == [line.text for line in texts] else "\n".join(whole)
    widths = [
        text_width(line.text, HEAD_PT if line.role == "head" else DETAIL_PT, bold=line.role in ("head", "alert"))
        for line in texts
    ]
    if more.get("times", 1) > 1:
        widths[0] += BADGE_GAP + badge_width(more["times"])
    width = max(widths) + 2 * _PADDING[0]
    height = len(texts) * LINE_PT + 2 * _PADDING[1]
    # An octagon loses room at its corners, a note and a cube at one of them, a stack at two sides.
    if category == "blocked":
        width, height = width * 1.12 + 10, height * 1.25
    elif category == "custom":
        width += 8
    elif category == "opaque":
        width, height = width + 10, height + 6
    elif category == "folded":
        width, height = width + STACK_PT, height + STACK_PT
    return Box(key, texts, category, order, math.ceil(width), math.ceil(height), full=full, **more)
