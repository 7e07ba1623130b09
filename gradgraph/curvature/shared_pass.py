"""The passes of a shared parameter: one-hot tangents at each site, read at all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from gradgraph.curvature.budget import chunk_for
from gradgraph.curvature.groups import weights_of
from gradgraph.curvature.rows import Plan, products_of
from gradgraph.curvature.sharding import Share
from gradgraph.curvature.shared import Shared
from gradgraph.curvature.sites import Place

__all__ = ["SharedPass", "own_adjoints"]


@contextmanager
def own_adjoints(nodes: Mapping[Place, Node]) -> Iterator[dict[Place, Tensor]]:
    """Of passes inside the block the gradient that each of `nodes` takes, as a tensor that nothing else takes.

    Several nodes may take one tensor, as an addition hands its own on; the tangent of each is another.
    """
    found: dict[Place, Tensor] = {}

    def viewing(place: Place) -> Callable[[tuple[Tensor | None, ...]], tuple[Tensor | None, ...]]:
        def view(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
            gradient = gradients[place[1]]
            if gradient is None:
                return gradients
            found[place] = gradient.view_as(gradient)
            return (*gradients[: place[1]], found[place], *gradients[place[1] + 1 :])

        return view

    handles = [node.register_prehook(viewing(place)) for place, node in nodes.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class SharedPass:
    """Sends the tangents of one `Shared`.

    Args:
        shared: what to read.
        gradients: of z at each site, by place.
        adjoints: of each x that depends on what enters, by place.
        precision: the relative rounding of the coarsest numbers in the graph.
        reset: to be called before each run of the engine.
    """

    def __init__(
        self,
        shared: Shared,
        gradients: Mapping[Place, Tensor | None],
        adjoints: Mapping[Place, Tensor],
        precision: float,
        reset: Callable[[], None],
    ) -> None:
        self._shared = shared
        self._gradients = gradients
        self._precision = precision
        self._reset = reset
        self._fed = {number: place for number, place in shared.fed.items() if place in adjoints}
        self._edges = [site.edge for site in shared.sites]
        self._edges += [GradientEdge(*get_gradient_edge(adjoints[place])[:2]) for place in self._fed.values()]

    def run(self, share: Share, advance: Callable[[int], None], chunk_size: int | None, memory: int | None) -> bool:
        """Send this rank's share; whether the passes that check it agree."""
        began = time.perf_counter()
        shared = self._shared
        for number in shared.senders:
            site = shared.sites[number]
            gradient = self._gradients[site.place]
            first, last = share.slice(site.sizes[1])
            if gradient is None or not gradient.requires_grad:
                continue
            most, reason = chunk_for(gradient, chunk_size, memory)
            plan = Plan(most, reason, checked=True)
            checked = False
            for piece in shared.pieces(number, first, last, most):
                vectors = shared.vectors(number, piece)
                products = self._products(gradient, vectors, plan)
                if not checked and not self._agrees(number, gradient, vectors, products, plan):
                    return False
                checked = True
                for other, product in enumerate(products[: len(shared.sites)]):
                    if product is not None:
                        shared.read_curvature(number, piece, other, product)
                for other, tangent in zip(self._fed, products[len(shared.sites) :], strict=True):
                    adjoint = self._gradients[shared.sites[other].place]
                    if tangent is not None and adjoint is not None:
                        shared.read_tangent(number, piece, other, adjoint.detach(), tangent)
                advance(piece.size)
            shared.passes += plan.passes
            shared.chunk = max(shared.chunk, min(most, shared.tangents))
        shared.seconds += time.perf_counter() - began
        return True

    def _products(self, gradient: Tensor, vectors: Tensor, plan: Plan) -> list[Tensor | None]:
        parts = [rows for _, rows in products_of(gradient, self._edges, vectors, plan, self._reset)]
        columns = zip(*parts, strict=True)
        return [None if None in column else torch.cat(column) for column in map(list, columns)]

    def _agrees(
        self, number: int, gradient: Tensor, vectors: Tensor, products: list[Tensor | None], plan: Plan
    ) -> bool:
        """Whether a mixture of the tangents, at half of the samples, gives in a pass of its own what they give."""
        shared = self._shared
        generator = torch.Generator(vectors.device).manual_seed(0)
        shares = torch.randn(len(vectors), generator=generator, device=vectors.device, dtype=vectors.dtype)
        half = weights_of(len(shared.tables[0]), vectors)
        one = torch.tensordot(shares, vectors, 1) * shared.weights(number, half, vectors.shape[1:])
        alone = self._products(gradient, one.unsqueeze(0), plan)
        numbers = [*range(len(shared.sites)), *self._fed]
        close = self._precision**0.5
        for other, product, found in zip(numbers, products, alone, strict=True):
            if product is None or found is None:
                if product is not found:
                    return False
                continue
            weights = shared.weights(other, half, product.shape[1:])
            expected = torch.tensordot(shares, product, 1) * weights
            if bool(found[0].masked_fill(weights != 0, 0).count_nonzero()):
                return False
            if not torch.dist(found[0], expected) <= close * torch.linalg.vector_norm(expected):
                return False
        return True
