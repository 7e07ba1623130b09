"""What results call the tensors they were asked for, and which leaves of a graph those are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.weak import TensorWeakRef

from gradgraph.errors import InputError
from gradgraph.graph import AutogradGraph
from gradgraph.params import ParamsLike, named_tensors

__all__ = ["Recall", "gone", "keys_of", "labelled", "recall"]

#: Gives a tensor back while the program still holds it. A result must not keep a model alive.
Recall = Callable[[], "Tensor | None"]


def labelled(params: ParamsLike, namespace: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of `params` by name; those that neither it nor `namespace` names are `param0`, `param1`, ...

    Raises:
        InputError: `params` holds no tensor, or is of another type.
    """
    found = named_tensors(params, namespace)
    if not found:
        raise InputError(
            "params holds no tensor: expected the tensors to differentiate by, for example a Module with "
            "parameters, a mapping from name to tensor, or a list of tensors."
        )
    taken = {item.name for item in found if item.name is not None}
    tensors: dict[str, Tensor] = {}
    count = 0
    for item in found:
        name = item.name
        while name is None or (item.name is None and name in taken):
            name = f"param{count}"
            count += 1
        tensors[name] = item.tensor
    return tensors


def recall(tensor: Tensor) -> Recall:
    """A way back to `tensor` that does not keep it."""
    reference: Recall = TensorWeakRef(tensor)
    return reference


def gone() -> Tensor | None:
    """The way back to a tensor of another process."""
    return None


def keys_of(graph: AutogradGraph, tensors: Mapping[str, Recall], what: str) -> dict[str, int]:
    """Key of the leaf of `graph` that each of `tensors` is: the very tensor in a live graph, else the same name.

    Raises:
        InputError: none of them is a leaf of the graph.
    """
    by_name: dict[str, int] = {name: key for key, name in graph.leaves().items()}
    by_tensor = {id(variable): key for key, variable in graph.live.leaves.items()} if graph.is_live else {}
    found: dict[str, int] = {}
    for name, again in tensors.items():
        tensor = again() if graph.is_live else None
        key = by_name.get(name) if tensor is None else by_tensor.get(id(tensor))
        if key is not None:
            found[name] = key
    if not found:
        how = "tensor" if graph.is_live else "name"
        raise InputError(
            f"none of the parameters of this {what} ({', '.join(list(tensors)[:5])}) is a leaf of the graph, "
            f"by {how}; trace the graph of the same program, with the same params."
        )
    return found
