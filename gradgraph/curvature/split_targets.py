"""Parameters given as gradient edges: the tensors behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradgraph.errors import InputError
from gradgraph.kinds import name_of
from gradgraph.params import ParamsLike
from gradgraph.saved import saved_values
from gradgraph.walk import Walk

__all__ = ["TargetsLike", "without_edges"]

#: What `ParamsLike` is, with gradient edges where tensors may be.
TargetsLike: TypeAlias = (
    ParamsLike
    | GradientEdge
    | Mapping[str, nn.Module | Tensor | GradientEdge]
    | Iterable[nn.Module | Tensor | GradientEdge | tuple[str, Tensor | GradientEdge]]
)


def without_edges(params: Any, loss: Any) -> Any:
    """`params` with each `GradientEdge` replaced by the tensor that it stands for; iterators are read into lists.

    Raises:
        InputError: the tensor of an edge is kept by nothing in the graph of the loss.
    """
    if isinstance(params, GradientEdge):
        return _tensor_at(params, loss)
    if isinstance(params, (nn.Module, Tensor, torch.optim.Optimizer)):
        return params
    if isinstance(params, Mapping):
        return {name: _tensor_at(one, loss) for name, one in params.items()}
    if isinstance(params, Iterable):
        return [
            (one[0], _tensor_at(one[1], loss))
            if isinstance(one, tuple) and not isinstance(one, GradientEdge) and len(one) == 2
            else _tensor_at(one, loss)
            for one in params
        ]
    return params


def _tensor_at(one: Any, loss: Any) -> Any:
    """The tensor behind an edge: a leaf's variable, or what a node saved; all else as it is."""
    if not isinstance(one, GradientEdge):
        return one
    variable = getattr(one.node, "variable", None)
    if isinstance(variable, Tensor):
        return variable
    walk = Walk()
    if isinstance(loss, Tensor) and loss.requires_grad:
        walk.follow([get_gradient_edge(loss)])
    key = walk.key_of.get(one.node)
    users = [u for u, v in zip(walk.source, walk.target, strict=True) if v == key]
    for saver in [] if key is None else [key, *users]:
        for value in saved_values(walk.nodes[saver]):
            tensor = value.data
            if tensor is not None and tensor.grad_fn is one.node and tensor.output_nr == one.output_nr:
                return tensor
    raise InputError(
        f"params has a GradientEdge to output {one.output_nr} of {name_of(one.node)}, "
        + ("which the loss does not depend on." if key is None else "and nothing in the graph keeps that tensor.")
        + " Pass the tensor itself instead."
    )
