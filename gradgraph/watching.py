"""One leaf under watch: what reaches its `.grad` in a pass, and what becomes of `.grad` between passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from gradgraph.labels import Recall, recall
from gradgraph.measure import norm
from gradgraph.walk import edge_of

__all__ = ["Carried", "Watched"]


class Carried(NamedTuple):
    """A leaf's `.grad` when a pass begins: its norm, and what happened to it since it was last seen."""

    norm: float | None
    event: str | None


class Watched:
    """One leaf, its hook, and its `.grad` as last seen. Holds the leaf only while it is attached."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = recall(tensor)
        self._node: Node | None = None
        self._handle: RemovableHandle | None = None
        self._ever_seen = False
        self._grad: Recall | None = None
        self._version: int | None = None
        self._values: Tensor | None = None
        self._norm: float | None = None

    def attach(self, collect: Callable[[Tensor], None]) -> None:
        """Give `collect` every gradient that reaches the leaf's AccumulateGrad node, after the tensor's own hooks.

        Called again before each pass: a leaf that changes device or dtype gets another node.
        """
        tensor = self._tensor()
        if tensor is None or not tensor.requires_grad:
            self.detach()
            return
        node = edge_of(tensor).node
        if node is self._node:
            return
        self.detach()

        def prehook(grads: tuple[Tensor | None, ...]) -> None:
            if grads[0] is not None:
                collect(grads[0])

        self._node = node
        self._handle = node.register_prehook(prehook)

    def detach(self) -> None:
        """Take the hook away and let the leaf go."""
        if self._handle is not None:
            self._handle.remove()
        self._node = self._handle = None

    def before(self) -> Carried:
        """What `.grad` holds now, and what became of it since it was last seen."""
        grad = self._now()
        event = self._event(grad)
        if grad is None:
            return Carried(None, event)
        known = self._norm if self._ever_seen and event is None else norm(grad)
        return Carried(known, event)

    def after(self, *, copy: bool) -> tuple[Tensor | None, float | None]:
        """Remember `.grad` as it stands; give its values (where `copy`) and its norm."""
        grad = self._now()
        self._ever_seen = True
        self._grad = None if grad is None else recall(grad)
        self._version = None if grad is None else grad._version
        self._values = grad.detach().clone() if copy and grad is not None else None
        self._norm = None if grad is None else norm(grad)
        return self._values, self._norm

    def _now(self) -> Tensor | None:
        tensor = self._tensor()
        return None if tensor is None else tensor.grad

    def _event(self, grad: Tensor | None) -> str | None:
        if not self._ever_seen:
            return None if grad is None else "held before"
        if grad is None:
            return None if self._grad is None else "set to None"
        if self._grad is None or self._grad() is not grad:
            return "replaced"
        # `.grad.data.zero_()` and NumPy write past the version counter: only the values tell.
        if grad._version != self._version or (self._values is not None and not _same(grad, self._values)):
            return "changed in place" if norm(grad) != 0 else "zeroed"
        return None


@torch.no_grad()
def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold equal values, NaN equal to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout or a.device != b.device:
        return False
    if a.layout is torch.sparse_coo:
        a, b = a.coalesce(), b.coalesce()
        return torch.equal(a.indices(), b.indices()) and _same(a.values(), b.values())
    if a.layout is not torch.strided or a.is_meta:
        return True
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
