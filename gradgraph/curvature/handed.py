"""What nodes take and give in a pass, and so whether hooks of the program's have a say in between.

A hook may leave a gradient's numbers alone and change what it depends on, as `lambda g: g.detach()` does: what is
handed on must be the very tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import Node

from gradgraph.curvature.chains import Chain
from gradgraph.curvature.sites import Place

__all__ = ["Handed", "handed"]

_Taken = Sequence["Tensor | None"]

#: A tensor, how often it had been changed in place, and what it had been made by.
_Given = tuple["Tensor | None", int, "Node | None"]


class Handed:
    """What was seen, by the keys of the nodes: the gradients that each took and those that it gave.

    Attributes:
        taken: what each node that ran took, hooks on its outputs included.
        given: what it gave by each slot, hooks on the next node's outputs apart.
    """

    def __init__(self) -> None:
        self.taken: dict[int, _Taken] = {}
        self.given: dict[int, list[_Given]] = {}

    def took(self, place: Place, gradient: Tensor | None) -> bool:
        """Whether the node took `gradient` itself at `place`; also if it did not run."""
        return place[0] not in self.taken or self.taken[place[0]][place[1]] is gradient

    def gave(self, key: int, slot: int, gradient: Tensor | None) -> bool:
        """Whether the node gave `gradient` itself by `slot`, and nothing changed it in place since."""
        given, version, maker = self.given[key][slot] if key in self.given else (None, 0, None)
        if gradient is None or given is not gradient:
            return False
        return gradient._version == version and gradient.grad_fn is maker

    def through(self, path: Sequence[tuple[int, int, int]], start: Tensor, end: Tensor) -> bool:
        """Whether `start` went in and `end` came out, each node of `path` (key, output, slot) having handed on."""
        given: Tensor | None = start
        for key, nr, slot in path:
            if not self.took((key, nr), given):
                return False
            given = self.given[key][slot][0]
        return given is end

    def along(self, chain: Chain, gradients: Mapping[Place, Tensor | None]) -> bool:
        """Whether each step of a chain took what the next gave, and the site what the first gave."""
        before = chain.site.place
        for step in chain.steps:
            known = self.took(step.place, gradients[step.place])
            if not known or not self.gave(step.place[0], step.slot, gradients[before]):
                return False
            before = step.place
        return True


@contextmanager
def handed(nodes: Mapping[int, Node]) -> Iterator[Handed]:
    """Note what `nodes`, by their keys, take and give in the passes inside the block."""
    found = Handed()

    def taking(key: int) -> Callable[[_Taken], None]:
        def take(gradients: _Taken) -> None:
            found.taken[key] = gradients

        return take

    def giving(key: int) -> Callable[[_Taken, _Taken], None]:
        def give(given: _Taken, taken: _Taken) -> None:  # noqa: ARG001 - what a hook is given
            found.given[key] = [(None, 0, None) if one is None else (one, one._version, one.grad_fn) for one in given]

        return give

    handles = [node.register_prehook(taking(key)) for key, node in nodes.items()]
    handles += [node.register_hook(giving(key)) for key, node in nodes.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
