"""What the layout is given and what it gives back: plain data in points, y upwards, the page's corner at (0, 0)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Columns", "Frame", "Lane", "Link", "Order0", "Placed", "Point", "Route", "Spot"]

Point = tuple[float, float]
#: Control points of a Bezier curve of n pieces: 3n + 1 of them.
Route = tuple[Point, ...]


@dataclass(frozen=True)
class Spot:
    """A box to place.

    `creators` are the boxes whose backward made it, each with the number of nodes that it made; none for operations
    that no backward pass made, and where nothing is known. A `stub` is a leaf drawn at one of its uses: it stands
    beside the box that the arrow to it comes from, in its lane. `clusters` are the groups it lies in, outermost first.
    """

    key: str
    width: float
    height: float
    order: int = 0
    creators: tuple[tuple[str, float], ...] = ()
    stub: bool = False
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """An arrow to route; `role` is `gradient`, `curvature`, or `mark` from the mark of a root to its box."""

    tail: str
    head: str
    role: str = "gradient"


@dataclass(frozen=True)
class Columns:
    """Where `dot` put the boxes of order 0, and how it routed the arrows between them, in the order of the links."""

    centres: Mapping[str, Point]
    routes: Sequence[Route | None] = ()


#: Lays out the boxes of order 0, given them and the links between them; None to have it done here.
Order0 = Callable[[Sequence[Spot], Sequence[Link]], Columns]


@dataclass(frozen=True)
class Lane:
    """The strip of one order, from `left` to `right`; its label is to be centred at `label`, `LABEL_PT` high."""

    order: int
    left: float
    right: float
    label: Point


@dataclass(frozen=True)
class Frame:
    """The rectangle around a cluster's boxes in one lane; `label` is where its text begins, at the top left."""

    cluster: str
    order: int
    left: float
    bottom: float
    right: float
    top: float
    label: Point


@dataclass(frozen=True)
class Placed:
    """A layout. `routes` are those of the links, in their order: from the tail's border to the head's."""

    centres: dict[str, Point]
    routes: list[Route]
    lanes: list[Lane]
    frames: list[Frame] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0
    inferred: bool = False
    """Higher orders were placed by structure alone, since no box has a creator."""
