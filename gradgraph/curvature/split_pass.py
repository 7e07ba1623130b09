"""The second pass: ⟨g, e⟩ differentiated once, and what it hands over on each curvature edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradgraph.curvature.split_adjoints import Adjoints, CurvatureEdge, Place, edge_of

__all__ = ["SplitPass", "fitted", "inner"]


def fitted(s: Tensor, tangent: Tensor) -> Tensor:
    """`s` in the shape of `tangent`: the engine sums what was broadcast only behind the hooks."""
    if s.layout is not torch.strided:
        s = s.to_dense()
    if s.shape != tangent.shape:
        s = s.sum_to_size(tangent.shape) if s.numel() > tangent.numel() else s.expand_as(tangent)
    return s


def inner(s: Tensor, tangent: Tensor) -> Tensor:
    """⟨s, tangent⟩, in float32 at least; a number on the tensors' device."""
    s = fitted(s, tangent)
    if s.is_complex():
        return (torch.view_as_real(s.resolve_conj()) * torch.view_as_real(tangent.resolve_conj())).sum()
    if s.dtype.itemsize < 4:
        s, tangent = s.float(), tangent.float()
    return torch.dot(s.reshape(-1), tangent.reshape(-1))


class SplitPass:
    """Differentiates ⟨g, e⟩ and pairs, on each curvature edge, the gradient s with the tangent of where it leads to.

    Args:
        adjoints: the pass that made the gradients.
        gradients: the gradients g that have a graph.
        params: what is differentiated by, all that the loss reaches.
        everywhere: learn the tangents of all places that have a view, not just those of curvature edges.

    Attributes:
        edges: after a run, the curvature edge that each of the numbers belongs to.
        tangents: during a run, and after it with `everywhere`, the tangents by place.
    """

    def __init__(
        self,
        adjoints: Adjoints,
        gradients: Mapping[Any, Tensor],
        params: Mapping[Any, Tensor | GradientEdge],
        *,
        everywhere: bool = False,
    ) -> None:
        self._adjoints = adjoints
        self._gradients = gradients
        self._params = params
        self._everywhere = everywhere
        self.tangents: dict[Place, Tensor] = {}
        self._waiting: dict[Place, list[tuple[CurvatureEdge, Tensor]]] = {}
        self._given: dict[Place, Tensor] = {}
        self._pairing: Callable[[Place, Tensor, Tensor], Tensor] | None = None
        self._numbers: list[Tensor] = []
        self.edges: list[CurvatureEdge] = []

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, `run` may be called."""
        curved = {edge.place for edges in self._adjoints.edges.values() for edge in edges}
        hooks = [
            node.register_prehook(self._arrives(place))
            for place, node in self._adjoints.places.items()
            if self._everywhere or place in curved
        ]
        hooks += [node.register_hook(self._leaves(edges)) for node, edges in self._adjoints.edges.items()]
        try:
            with torch.autograd.set_multithreading_enabled(False):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def run(
        self,
        direction: Mapping[Any, Tensor],
        pairing: Callable[[Place, Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[list[Tensor], dict[Any, Tensor]]:
        """The numbers ⟨s, tangent⟩ of each curvature edge, for `edges`; and the product of the Hessian with e.

        Args:
            direction: e by name, of the parameters that are in it; of others it is zero, and they get no product.
            pairing: what is made of s and a tangent at a place; by default their inner product.
        """
        self.tangents, self._waiting, self._pairing = {}, {}, pairing
        self._numbers, self.edges = [], []
        places = self._adjoints.of_params
        self._given = {places[name]: e for name, e in direction.items() if name in places}
        starts = [name for name in direction if name in self._gradients]
        names = [name for name in direction if name in self._params]
        received = torch.autograd.grad(
            [self._gradients[name] for name in starts],
            [*(self._adjoints.ends[name] for name in names), *map(edge_of, self._adjoints.roots)],
            [direction[name] for name in starts],
            retain_graph=True,
            allow_unused=True,
        )
        for place, pairs in self._waiting.items():
            tangent = self._given.get(place)
            if tangent is not None:
                for edge, s in pairs:
                    self._pair(edge, s, tangent)
        product = {
            name: one if one.layout is torch.strided else one.to_dense()
            for name, one in zip(names, received, strict=False)
            if one is not None
        }
        numbers, self._numbers = self._numbers, []
        if self._everywhere:
            self.tangents = {**self._given, **self.tangents}
        else:
            self.tangents = {}
        self._waiting, self._given = {}, {}
        return numbers, product

    def _arrives(self, place: Place) -> Callable[[Sequence[Tensor | None]], None]:
        """A hook on the view that is an adjoint: what arrives there is the tangent."""

        def arrives(received: Sequence[Tensor | None]) -> None:
            (tangent,) = received
            if tangent is None:
                return
            given = self._given.get(place)
            if given is not None:
                tangent = tangent + given
            self.tangents[place] = tangent
            for edge, s in self._waiting.pop(place, ()):
                self._pair(edge, s, tangent)

        return arrives

    def _leaves(self, edges: Sequence[CurvatureEdge]) -> Callable[[Sequence[Tensor | None], Any], None]:
        """A hook on a node with curvature edges: what leaves it there is s."""

        def leaves(sent: Sequence[Tensor | None], received: Any) -> None:  # noqa: ARG001 - torch's signature
            for edge in edges:
                s = sent[edge.slot]
                if s is None:
                    continue
                tangent = self.tangents.get(edge.place)
                if tangent is not None:
                    self._pair(edge, s, tangent)
                else:
                    self._waiting.setdefault(edge.place, []).append((edge, s))

        return leaves

    def _pair(self, edge: CurvatureEdge, s: Tensor, tangent: Tensor) -> None:
        self._numbers.append(inner(s, tangent) if self._pairing is None else self._pairing(edge.place, s, tangent))
        self.edges.append(edge)
