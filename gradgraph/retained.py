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

    Looks at every object that the garbage collector tracks, some 20 ms in a large process, and from then on only at
    what is new.
    """
    with torch._C.DisableTorchFunctionSubclass():
        found = [one for one in _tensors() if one.retains_grad]
        if not found:
            return []
        inside = set(reachable(roots))
        return [tensor for tensor in found if not tensor.is_leaf and tensor.grad_fn in inside]


class _Old:
    """The tensors of the oldest generation, kept up to date at each collection that makes objects old.

    A whole look at a large program's objects takes longer than many an analysis. So for a while after one the young
    tensors are noted before they become old, at a fraction of a collection's own cost.
    """

    tensors: list[TensorWeakRef] | None = None
    unused = 0  # collections since an analysis asked

    @classmethod
    def collected(cls, phase: str, info: dict[str, int]) -> None:
        """What the garbage collector calls before and after each collection."""
        if phase != "start" or info["generation"] < 1 or cls.tensors is None:
            return
        cls.unused += 1
        if cls.unused > _PATIENCE:
            cls.tensors = None  # from now on this returns at once; taken out here, the next callback would be left out
            return
        kept = [reference for reference in cls.tensors if reference() is not None]
        cls.tensors = kept + [TensorWeakRef(tensor) for tensor in _young(_subclasses(Tensor))]


_PATIENCE = 100  # collections


def _tensors() -> list[Tensor]:
    kinds = _subclasses(Tensor)
    if sys.version_info >= (3, 14):  # its generations are others
        return _among(gc.get_objects(), kinds)
    _Old.unused = 0
    if _Old.tensors is None:
        _Old.tensors = []
        if _Old.collected not in gc.callbacks:
            gc.callbacks.append(_Old.collected)
        _Old.tensors += [TensorWeakRef(tensor) for tensor in _among(gc.get_objects(generation=2), kinds)]
    found = [tensor for reference in _Old.tensors if (tensor := reference()) is not None]
    return found + _young(kinds)


def _young(kinds: set[type]) -> list[Tensor]:
    return _among(gc.get_objects(generation=0), kinds) + _among(gc.get_objects(generation=1), kinds)


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
