"""A graph as an indented outline, bounded in lines: for terminals, logs and places without pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradgraph.errors import InputError
from gradgraph.render.lines import Show, lines_of, shorten

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph

__all__ = ["outline"]

_DEEPEST = 24  # levels of indentation that are told apart


def outline(graph: AutogradGraph, max_lines: int = 40, *, width: int = 100) -> str:
    """The graph as text, from its roots down; a node that was shown before is only referred to.

    A node that leads to one other only does not indent it: a chain stays a column.

    Args:
        graph: what to show.
        max_lines: the most lines.
        width: the most characters of a line.

    Raises:
        InputError: `max_lines` or `width` is too small.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> print(outline(gradgraph.trace((x * x).sum())))
        0 SumBackward0 scalar
        1 MulBackward0 scalar
          2 x scalar
          2 x (above)
    """
    if max_lines < 1 or width < 20:
        raise InputError(f"outline() expected max_lines >= 1 and width >= 20, got {max_lines!r} and {width!r}.")
    if len(graph) == 0:
        return "an empty graph"
    lines: list[str] = []
    seen: set[int] = set()
    starts = graph.roots or [key for key in graph if graph.in_degree(key) == 0] or list(graph)[:1]
    stack = [(key, 0) for key in reversed(list(dict.fromkeys(starts)))]
    several = len({order for _, order in graph.nodes(data="order")}) > 1
    while stack and len(lines) < max_lines:
        key, depth = stack.pop()
        again = key in seen
        lines.append(_cut("  " * min(depth, _DEEPEST) + _line(key, graph.nodes[key], again, several), width))
        if not again:
            seen.add(key)
            inputs = [child for _, child, _ in sorted(graph.out_edges(key, keys=True), key=lambda edge: edge[2])]
            deeper = depth + (len(inputs) > 1)
            stack += [(child, deeper) for child in reversed(inputs)]
    hidden = len(graph) - len(seen)
    if hidden:
        if len(lines) == max_lines:
            hidden += not lines.pop().endswith("(above)")
        lines.append(f"… {hidden} more {'node' if hidden == 1 else 'nodes'}")
    return "\n".join(lines)


def _line(key: int, data: dict[str, Any], again: bool, several_orders: bool) -> str:
    head, *rest = (line.text for line in lines_of(data, Show()))
    if again:
        return f"{key} {head} (above)"
    order = [f"order {data['order']}"] if several_orders and data["order"] else []
    kind = [data["kind"]] if data["kind"] in ("custom", "opaque", "blocked") else []
    return ", ".join([" ".join([f"{key} {head}", *rest[:1]]), *rest[1:], *order, *kind])


def _cut(text: str, width: int) -> str:
    """`text` with its indentation, cut at `width`."""
    indent = len(text) - len(text.lstrip(" "))
    return " " * indent + shorten(text.lstrip(" "), max(width - indent, 12))
