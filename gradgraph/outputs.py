"""The gradient edges in any nesting of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils import _pytree as pytree

from gradgraph.errors import InputError

__all__ = ["flatten"]


def flatten(outputs: Any, what: str) -> tuple[list[GradientEdge], int]:
    """The gradient edges of all tensors in `outputs` that have a graph, and how many tensors have none.

    Raises:
        InputError: there is no tensor, or none has a graph.
    """
    edges: list[GradientEdge] = []
    skipped: list[Tensor] = []
    for item in _members(outputs):
        if isinstance(item, GradientEdge):
            edges.append(item)
        elif item.requires_grad:
            edges.append(get_gradient_edge(item))
        else:
            skipped.append(item)
    if edges:
        return edges, len(skipped)
    if not skipped:
        raise InputError(
            f"{what} holds no tensor: expected a tensor, a GradientEdge or a nesting of them, got {_brief(outputs)}."
        )
    tensor = skipped[0]
    described = f"{str(tensor.dtype).removeprefix('torch.')} tensor of shape {list(tensor.shape)}"
    subject = "is" if len(skipped) == 1 else f"holds {len(skipped)} tensors without an autograd graph, the first"
    raise InputError(
        f"{what} {subject} a {described} that does not require grad, so there is no graph to trace. Was it "
        "computed under torch.no_grad(), detached, converted by .item() or .numpy(), or from leaves without "
        "requires_grad=True? A gradient has a graph only where create_graph=True made one."
    )


def _members(outputs: Any) -> Iterator[GradientEdge | Tensor]:
    """Tensors and edges in `outputs`, depth first, in order. Iterative; a container inside itself is entered once."""
    stack = [outputs]
    entered: dict[int, Any] = {}
    while stack:
        item = stack.pop()
        if isinstance(item, (Tensor, GradientEdge)):
            yield item
            continue
        inside = _contents(item)
        if inside and id(item) not in entered:
            entered[id(item)] = item
            stack.extend(reversed(inside))


def _contents(item: Any) -> list[Any]:
    if isinstance(item, Mapping):
        return list(item.values())
    if isinstance(item, (list, tuple)):
        return list(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return [getattr(item, field.name) for field in dataclasses.fields(item)]
    if type(item) in pytree.SUPPORTED_NODES:
        return pytree.SUPPORTED_NODES[type(item)].flatten_fn(item)[0]
    return []


def _brief(value: Any) -> str:
    if isinstance(value, (list, tuple, Mapping)):
        return f"a {type(value).__name__} of {len(value)} entries"
    return f"{'an' if type(value).__name__[0] in 'aeiouAEIOU' else 'a'} {type(value).__name__}"
