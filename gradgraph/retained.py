"""The tensors that `retain_grad()` was called on: no node tells, but the garbage collector knows every tensor."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.weak import TensorWeakRef

from gradgraph.teardown import reachable

__all__ = ["retained"]


def retained(roots: Sequence[Node]) -> list[Tensor]:
    """The tensors behind `roots` that `retain_grad()` was called on; runs no code of a subclass's own.

    Looks at every object that the garbage collector tracks, some 20 ms in a large process; while no collection has
    made objects old since the last call, only at the young ones.
    """
    with torch._C.DisableTorchFunctionSubclass():
        found = [one for one in _tensors() if one.retains_grad]
        if not found:
            return []
        inside = set(reachable(roots))
        return [tensor for tensor in found if not tensor.is_leaf and tensor.grad_fn in inside]


class _Old:
    """The tensors of the oldest generation, and after which collections they were looked for."""

    tensors: list[TensorWeakRef] | None = None
    collections: tuple[int, ...] = ()


def _tensors() -> list[Tensor]:
    kinds = _subclasses(Tensor)
    if sys.version_info >= (3, 14):  # its generations are others
        return _among(gc.get_objects(), kinds)
    collections = tuple(one["collections"] for one in gc.get_stats()[1:])
    if _Old.tensors is None or collections != _Old.collections:
        old = _among(gc.get_objects(generation=2), kinds)
        _Old.tensors = [TensorWeakRef(tensor) for tensor in old]
        _Old.collections = tuple(one["collections"] for one in gc.get_stats()[1:])
    else:
        old = [tensor for reference in _Old.tensors if (tensor := reference()) is not None]
    young = _among(gc.get_objects(generation=0), kinds) + _among(gc.get_objects(generation=1), kinds)
    return old + young


def _among(objects: list[Any], kinds: set[type]) -> list[Tensor]:
    return [one for one in objects if type(one) in kinds]


def _subclasses(kind: type) -> set[type]:
    kinds: set[type] = {kind}
    stack: list[Any] = [kind]
    while stack:
        fresh = [sub for sub in stack.pop().__subclasses__() if sub not in kinds]
        kinds.update(fresh)
        stack.extend(fresh)
    return kinds
