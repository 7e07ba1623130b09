"""`fold()`: a graph small enough to look at."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from gradgraph.errors import InputError
from gradgraph.view.chains import Links, chained
from gradgraph.view.cut import cost, cut
from gradgraph.view.items import Item, finish, group, single
from gradgraph.view.names import check_known, groups_called
from gradgraph.view.quotient import single_boxes, view_of
from gradgraph.view.reading import Reading
from gradgraph.view.tree import tree_of
from gradgraph.view.views import View

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["MAX_NODES", "By", "fold", "gc_paused"]

By = Literal["auto", "none", "module", "line", "repeat", "chain"]

#: More boxes than this are not taken in at a glance.
MAX_NODES = 150


def fold(
    graph: nx.MultiDiGraph[int],
    by: By = "auto",
    *,
    depth: int | None = None,
    expand: Sequence[str] | str = (),
    max_nodes: int | None = None,
) -> View:
    """Fold a graph into a view that is small enough to look at. Nothing is lost: boxes say what they stand for.

    Groups form a tree, and the view is a cut through it: the most detailed one that has at most `max_nodes` boxes,
    opened level by level, the smallest groups first. A box never mixes derivative orders, unless it is a repeat that
    climbs through them. What a backward pass made is grouped as what it differentiates, where that was recorded.

    Args:
        graph: live, released, loaded or a part of one; with or without what `record` adds.
        by: "module": by the module tree, outside of modules by line. "line": by file, function and source line.
            "repeat": consecutive equal parts (layers, steps of a loop) become one that stands for all, by structure
            alone. "chain": what is consumed once, with its one input. "auto": by modules if they are known, else by
            lines, with repeats merged; else by repeats; and a graph of at most `max_nodes` nodes is left as it is.
            "none": every node a box.
        depth: cut the tree at this depth: 0 is one box for each order, 1 the outermost groups.
        expand: groups that are opened whatever it takes, by name ("encoder.3"), by label, or by the end of a path
            ("attn" opens all that are called so). Of a repeat, the name of any part opens it.
        max_nodes: how many boxes there may be at most. 150 if neither it nor `depth` is given; with a `depth` and
            without it there is no limit. Where groups cannot keep to it, stretches of nodes that ran one after the
            other become boxes. `expand`, and one box for each order, come first.

    Returns:
        The view. Time and memory are linear in nodes and edges.

    Raises:
        InputError: an option that is not known, or a name in `expand` that no group has.

    Example:
        >>> import torch, gradgraph
        >>> w = torch.tensor(0.5, requires_grad=True)
        >>> y = w
        >>> for _ in range(1000):
        ...     y = torch.tanh(y * w)
        >>> view = gradgraph.fold(gradgraph.trace(y))
        >>> [cluster["label"] for cluster in view.clusters.values()]
        ['2 ops: MulBackward0 … TanhBackward0 ×999']
    """
    names = [expand] if isinstance(expand, str) else list(expand)
    _check(by, depth, max_nodes)
    with gc_paused(len(graph)):
        reading = Reading(graph)
        most = MAX_NODES if max_nodes is None and depth is None else max_nodes
        fits = most is not None and len(reading) <= most
        if by == "none" or (by == "auto" and fits and depth is None and not names):
            return single_boxes(reading, range(len(reading)), graph.graph)
        links: list[Links] = []

        def chains(items: Sequence[Item]) -> list[Item]:
            if not links:
                links.append(Links(reading))
            return chained(items, links[0], reading)

        root = _chains_alone(reading, chains) if by == "chain" else tree_of(reading, by)
        innermost = by in ("auto", "repeat") or depth is not None
        cutting = partial(cut, root, depth=depth, innermost=innermost, chains=chains)
        forced, unknown = groups_called(root, names, reading.data)
        shown = cutting(most=most, forced=forced)
        if unknown:  # perhaps chains or stretches, which the cut itself has made
            late, unknown = groups_called(root, unknown, reading.data)
            check_known(root, unknown, reading.data)
            more = sum(cost(item.children, item) for item in late)
            shown = cutting(most=None if most is None else most + more, forced=forced + late)
        return view_of(reading, shown, graph.graph, by)


def _chains_alone(reading: Reading, chains: object) -> Item:
    atoms = [
        single([place], reading.ran[place], reading.order[place])
        for place in sorted(range(len(reading)), key=reading.ran.__getitem__)
    ]
    assert callable(chains)
    root = group(chains(atoms), "chain")
    finish(root)
    return root


def _check(by: str, depth: int | None, max_nodes: int | None) -> None:
    if by not in get_args(By):
        raise InputError(f"fold by={by!r} is not known: expected one of {', '.join(get_args(By))}.")
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 0):
        raise InputError(f"fold expected depth to be a whole number from 0, got {depth!r}; leave it out for no limit.")
    if max_nodes is not None and (isinstance(max_nodes, bool) or not isinstance(max_nodes, int) or max_nodes < 1):
        raise InputError(f"fold expected max_nodes to be a whole number from 1, got {max_nodes!r}.")


@contextmanager
def gc_paused(count: int) -> Iterator[None]:
    """Many small objects are made and none is garbage: collecting meanwhile doubles the time of large graphs."""
    if count < 20_000 or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
