"""One loss, differentiated once while it is watched, and ready to be differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from gradgraph.curvature.first_order import gradients_of
from gradgraph.curvature.split_adjoints import Adjoints
from gradgraph.curvature.split_check import Check
from gradgraph.curvature.split_graph import SplitGraph
from gradgraph.curvature.split_pass import SplitPass
from gradgraph.curvature.split_rows import SplitRows

__all__ = ["Watched"]


class Watched:
    """The first pass, and what the second one needs of it.

    Args:
        loss: the loss.
        tensors: the parameters by name.
        structural: whether its structure is to be looked at: for all entries, not for one direction.

    Attributes:
        adjoints: how the gradients were made.
        structure: what the graph's structure says.
        gradients: after `run`, the gradients: of parameters by name, of others by place.
    """

    def __init__(self, loss: Tensor, tensors: Mapping[str, Tensor], *, structural: bool) -> None:
        active = {name: one for name, one in tensors.items() if one.requires_grad}
        self._loss = loss
        self.structure = SplitGraph(loss, active if structural else {})
        self._params: dict[Any, Any] = {**active, **self.structure.edges}
        self.adjoints = Adjoints(loss, self._params)
        self.gradients: dict[Any, Tensor] = {}

    def run(self) -> dict[str, Tensor]:
        """Run the first pass: the gradients of the parameters."""
        self._differentiate = partial(gradients_of, self._loss, self._params)
        found = self.adjoints(self._differentiate)
        self.structure.watch(self.adjoints)
        self.gradients = found
        self._params = {name: one for name, one in self._params.items() if name in found}
        return {name: one for name, one in found.items() if name not in self.structure.edges}

    @contextmanager
    def rows(self, reset: Callable[[], None]) -> Iterator[SplitRows]:
        """Inside, the second pass can be run."""
        curved = {name: one for name, one in self.gradients.items() if one.requires_grad}
        split = SplitPass(self.adjoints, curved, self._params)
        check = Check(self._loss, self._params, self._differentiate, self.adjoints)
        with split.hooked():
            yield SplitRows(split, reset, check)
