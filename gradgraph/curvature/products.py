"""Products of the Hessian with vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from gradgraph.curvature.first_order import first_order
from gradgraph.errors import InputError
from gradgraph.labels import labelled
from gradgraph.params import ParamsLike, caller_namespace

__all__ = ["hvp"]

#: One tensor per parameter: by name, in the order of the parameters, or the only one.
VectorLike: TypeAlias = Mapping[str, Tensor] | Iterable[Tensor] | Tensor


def hvp(loss: Tensor, params: ParamsLike, vector: VectorLike) -> dict[str, Tensor]:
    """The Hessian of `loss` times `vector`, exact to rounding, without the Hessian.

    Reverse over reverse: H v = d⟨g, v⟩ / dp with the gradient g of the loss (Pearlmutter, "Fast exact multiplication
    by the Hessian", 1994).

    Args:
        loss: a real scalar with a graph that no pass has freed.
        params: as for `hessian_diagonal`.
        vector: one tensor per parameter, of its shape and dtype: a mapping by name, or in the order of `params`; a
            tensor where there is one parameter.

    Returns:
        A dict from name to a tensor of the parameter's shape; zeros where the product is.

    Raises:
        InputError: `vector` does not fit the parameters; and as `hessian_diagonal`.
        GradGraphError: something in the graph cannot be differentiated twice.

    Cost: two passes, about four times the loss. Memory: that of the gradient's graph.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradgraph.hvp((x**3).sum(), x, torch.tensor([1.0, 1.0]))["x"]
        tensor([ 6., 12.])
    """
    tensors = labelled(params, caller_namespace())
    given = _fitting(vector, tensors)
    result = {name: torch.zeros_like(tensor.detach()) for name, tensor in tensors.items()}
    with first_order("hvp", loss, tensors) as order:
        inputs = {name: tensor for name, tensor in tensors.items() if order.reached[name] != "unreachable"}
        if order.gradients:
            order.reset()
            received = torch.autograd.grad(
                list(order.gradients.values()),
                list(inputs.values()),
                [given[name] for name in order.gradients],
                retain_graph=True,
                allow_unused=True,
            )
            for name, product in zip(inputs, received, strict=True):
                if product is not None:
                    result[name] = product.detach().to_dense()
    return result


def _fitting(vector: VectorLike, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`vector` by name, checked against the parameters."""
    if isinstance(vector, Mapping):
        missing = [name for name in tensors if name not in vector]
        foreign = [name for name in vector if name not in tensors]
        if missing or foreign:
            raise InputError(
                f"vector expected one tensor for each of {', '.join(map(repr, list(tensors)[:5]))}; "
                + (f"it lacks {missing[0]!r}." if missing else f"it has {foreign[0]!r}, which is no parameter.")
            )
        given = {name: vector[name] for name in tensors}
    else:
        entries = [vector] if isinstance(vector, Tensor) else list(vector)
        if len(entries) != len(tensors):
            raise InputError(
                f"vector expected {len(tensors)} tensors, one per parameter in their order, got {len(entries)}."
            )
        given = dict(zip(tensors, entries, strict=True))
    for name, entry in given.items():
        expected = tensors[name]
        if not isinstance(entry, Tensor):
            raise InputError(f"vector expected a tensor for {name!r}, got {type(entry).__name__}.")
        if entry.shape != expected.shape or entry.dtype != expected.dtype or entry.device != expected.device:
            raise InputError(
                f"vector's tensor for {name!r} expected {_described(expected)}, got {_described(entry)}; split a "
                "flat vector with torch.split and reshape its parts."
            )
    return {name: entry.detach() for name, entry in given.items()}


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)} on {tensor.device}"
