"""What of a graph is drawn: all of it, some orders, a fold, a neighbourhood; and what is said of the rest."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args

from gradgraph.errors import InputError

if TYPE_CHECKING:
    import networkx as nx

    from gradgraph.graph import AutogradGraph
    from gradgraph.view import View

    Drawable = nx.MultiDiGraph[int]

__all__ = ["MAX_NODES", "FoldName", "subject_of"]

FoldName = Literal["auto", "none", "module", "line", "repeat", "chain"]

#: Boxes up to which `fold="auto"` leaves a graph as it is.
MAX_NODES = 150


def subject_of(
    graph: AutogradGraph | View,
    *,
    fold: FoldName = "auto",
    depth: int | None = None,
    expand: Iterable[str] | str = (),
    focus: int | str | None = None,
    hops: int = 2,
    order: int | Collection[int] | None = None,
    max_nodes: int | None = None,
) -> tuple[Drawable, tuple[str, ...]]:
    """The graph or view to draw, and captions that say what it leaves out. Options as in `render`.

    Raises:
        InputError: an option is not known, or does not go with the others or with the graph.
    """
    if fold not in get_args(FoldName):
        raise InputError(f"fold={fold!r} is not known: expected one of {', '.join(get_args(FoldName))}.")
    if max_nodes is not None and (isinstance(max_nodes, bool) or not isinstance(max_nodes, int) or max_nodes < 1):
        raise InputError(f"max_nodes={max_nodes!r} is no limit: expected a positive whole number.")
    expand = (expand,) if isinstance(expand, str) else tuple(expand)
    drawn: Any = graph
    captions: list[str] = []
    if order is not None:
        drawn, said = _orders(drawn, {order} if isinstance(order, int) else set(order))
        captions += said
    if _is_view(graph):
        if fold != "auto" or depth is not None or expand:
            raise InputError(
                "fold=, depth= and expand= are for graphs, and this is a View, which is drawn as it is; give them to "
                "gradgraph.fold(graph, ...) instead."
            )
    elif _folds(drawn, fold, depth, expand, focus, max_nodes or MAX_NODES):
        from gradgraph.view import fold as folded

        drawn = folded(drawn, fold, depth=depth, expand=expand, max_nodes=max_nodes)
    if focus is not None:
        from gradgraph.view import focus as focused

        drawn = focused(drawn, focus, hops=hops)
    return drawn, (*captions, *_captions(drawn), *_unrecorded(graph))


def _is_view(graph: Any) -> bool:
    return hasattr(graph, "clusters") and hasattr(graph, "box_of")


def _folds(graph: Drawable, fold: FoldName, depth: int | None, expand: tuple[str, ...], focus: Any, most: int) -> bool:
    if fold == "none":
        if depth is not None or expand:
            raise InputError("depth= and expand= say how far to fold, and fold='none' does not fold; leave them out.")
        return False
    if fold == "auto" and depth is None and not expand:
        # A neighbourhood is small: it is shown node by node, unless a fold is asked for.
        return len(graph) > most and focus is None
    return True


def _orders(graph: Any, wanted: set[int]) -> tuple[Any, list[str]]:
    """The part of a graph or view whose boxes have one of these orders."""
    if not wanted or not all(isinstance(one, int) and one >= 0 for one in wanted):
        raise InputError(f"order={sorted(wanted, key=str)!r} is no order: expected 0, 1, 2, ... or several of them.")
    there: set[int] = set()
    found: set[int] = set()
    keys = []
    for key, data in graph.nodes.items():
        low, high = data.get("orders") or (data.get("order", 0),) * 2
        there.update((low, high))
        shown = {one for one in wanted if low <= one <= high}
        if shown:
            keys.append(key)
            found |= shown
    missing = wanted - found
    if missing:
        reason = f"no node has order {_listed(missing)}: this graph has {_listed(there) or 'none'}."
        if not keys:
            raise InputError(reason)
        # Of several it is often a range that was meant; what is there is drawn.
        warnings.warn(reason, UserWarning, stacklevel=6)
    hidden = len(graph) - len(keys)
    what = "boxes" if _is_view(graph) else "nodes"
    said = [f"order {_listed(found)} only: {hidden:,} of {len(graph):,} {what} not shown"] if hidden else []
    return graph.subgraph(keys), said


def _listed(orders: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(orders)))


def _captions(drawn: Any) -> list[str]:
    """What a view folds and hides."""
    if not _is_view(drawn):
        return []
    hidden = int((drawn.graph.get("hidden") or {}).get("nodes") or 0)
    total = int(drawn.graph.get("nodes") or 0)
    said = []
    if any(data.get("fold") for data in drawn.nodes.values()):
        inside = sum(int(data.get("count") or 1) for data in drawn.nodes.values())
        said.append(f"{inside:,} nodes folded into {len(drawn):,} {'box' if len(drawn) == 1 else 'boxes'}")
    if hidden:
        said.append(f"{hidden:,} of {total:,} nodes not shown")
    return said


def _unrecorded(graph: Any) -> list[str]:
    """How many operations of a graph that was recorded in part are not known to the recording. Views do not say."""
    if _is_view(graph) or not graph.graph.get("recorded"):
        return []
    made = [data for data in graph.nodes.values() if data.get("kind") not in ("leaf", "root")]
    missed = sum(data.get("provenance") not in (None, "recorded") for data in made)
    if not missed:
        return []
    return [f"{missed:,} of {len(made):,} operations were made outside the recording: no line, no module"]
