"""Tangents sent through the engine, those of several sites together where they have one cut; and the check of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradgraph.curvature.budget import budget, bytes_per_row, mib
from gradgraph.curvature.rows import Plan, products_of
from gradgraph.curvature.sites import Place
from gradgraph.curvature.tangents import Block
from gradgraph.curvature.work import Piece, Work

__all__ = ["Sender"]

_LITTLE = 16 * 2**20  # bytes

_PLENTY = 64 * 2**20  # bytes

_ALL = 2**62  # tangents come in pieces that fit already


@dataclass
class _Sent:
    """A piece of one site's tangents on its way through the engine."""

    work: Work
    piece: Piece
    block: Block


@dataclass
class _Mixture:
    """A random mixture of tangents at one cut, and of what the engine gave for them.

    Attributes:
        edge: the cut.
        weights: of the entries there, one for each sample; None where samples are not told apart.
        tangent: the mixture, of the cut's shape.
        product: what it should give.
        works: whose tangents are in it.
    """

    edge: GradientEdge
    weights: Tensor | None
    tangent: Tensor
    product: Tensor
    works: dict[Work, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._generator = torch.Generator(self.tangent.device).manual_seed(0)

    def add(self, tangents: Tensor, products: Tensor) -> None:
        """Take in tangents and what they gave: `[k, *shape]`."""
        shares = torch.randn(len(tangents), generator=self._generator, device=tangents.device, dtype=tangents.dtype)
        self.tangent += torch.tensordot(shares, tangents, 1)
        self.product += torch.tensordot(shares, products, 1)

    def weighted(self, mixed: Tensor) -> Tensor:
        """`mixed` with each sample times its weight."""
        return mixed if self.weights is None else mixed * self.weights

    def agrees(self, found: Tensor, gradient: Tensor, precision: float) -> bool:
        """Whether the engine gave `found` for the weighted mixture rightly, to half the digits that `precision` leaves.

        Where the Hessian is zero there is but rounding, of the size of the `gradient`.
        """
        # Where samples weigh nothing, nothing may be, to the last bit.
        if self.weights is not None and bool(found.masked_fill(self.weights != 0, 0).count_nonzero()):
            return False
        expected = self.weighted(self.product)
        rounding = 64 * precision * torch.linalg.vector_norm(gradient) * self.weighted(self.tangent).abs().max()
        close = precision**0.5 * torch.linalg.vector_norm(expected)
        return bool(torch.dist(found, expected) <= close + rounding)


class Sender:
    """Sends the tangents of works, piece by piece.

    Args:
        gradients: of what stands at each cut, by place.
        loss: the loss.
        precision: the relative rounding of the coarsest numbers in the graph.
        reset: to be called before each run of the engine.
        chunk_size: tangents per pass; None for as many as `memory` holds.
        memory: bytes for the tangents of one pass; None for what is plenty.
    """

    def __init__(
        self,
        gradients: Mapping[Place, Tensor | None],
        loss: Tensor,
        precision: float,
        reset: Callable[[], None],
        *,
        chunk_size: int | None,
        memory: int | None,
    ) -> None:
        self._gradients = gradients
        self._loss = loss
        self._precision = precision
        self._reset = reset
        self._chunk_size = chunk_size
        self._memory = memory
        self._engine: dict[Place, Plan] = {}
        self._rows: dict[Place, int] = {}  # bytes of one behind a cut
        self._mixtures: dict[tuple[Place, tuple[object, ...]], _Mixture] = {}
        self._waiting: dict[Place, list[_Sent]] = {}
        self._held = 0.0  # how much of a pass waits

    def send(self, work: Work, first: int, last: int, advance: Callable[[int], None]) -> None:
        """Send the tangents of the units from `first` to `last`; some may wait for those of other works."""
        began = time.perf_counter()
        most = self._most(work)
        work.chunk = min(most, work.each * work.site.sizes[1])
        for piece in work.pieces(first, last, most):
            self._waiting.setdefault(work.chain.last, []).append(_Sent(work, piece, work.block(piece)))
            self._held += piece.size / most
            if self._held >= 1:
                self._flush(advance)
        work.seconds += time.perf_counter() - began

    def finish(self, advance: Callable[[int], None]) -> list[Work]:
        """Send what waits; the works of which a pass of its own gave something else."""
        self._flush(advance)
        wrong: list[Work] = []
        for (place, _), one in self._mixtures.items():
            before = self._passes(place)
            found = self.product(place, one.edge, one.weighted(one.tangent).unsqueeze(0))
            for work in one.works:
                work.passes += self._passes(place) - before
                gradient = self._gradients[place]
                if found is None or gradient is None or not one.agrees(found[0], gradient.detach(), self._precision):
                    wrong.append(work)
        self._mixtures.clear()
        return wrong

    def product(self, place: Place, edge: GradientEdge, vectors: Tensor) -> Tensor | None:
        """The Hessian at an edge times vectors `[k, *shape]`; None where it is zero."""
        gradient = self._gradients[place]
        if gradient is None or not gradient.requires_grad:
            return None
        # The check of `finish` is stricter than that of `products_of`.
        plan = self._engine.setdefault(place, Plan(_ALL, "", checked=True))
        parts = [rows for _, (rows,) in products_of(gradient, [edge], vectors, plan, self._reset)]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) > 1 else known[0].detach() if known else None

    def _bytes(self, work: Work) -> int:
        """What one tangent takes at most: before the cut and behind it."""
        cut = work.chain.last
        gradient = self._gradients[cut]
        if cut not in self._rows:
            self._rows[cut] = 0 if gradient is None or gradient.grad_fn is None else bytes_per_row(gradient)
        before = sum(math.prod(step.shape) for step in work.chain.steps) + math.prod(work.site.shape)
        return self._rows[cut] + before * self._loss.element_size()

    def _most(self, work: Work) -> int:
        """Tangents in a pass."""
        if self._chunk_size is not None:
            return self._chunk_size
        each, count = self._bytes(work), work.each * work.site.sizes[1]
        if self._memory is None and each * count <= _LITTLE:
            return count  # there is so much, and to look takes longer than a little net does
        spend = budget(self._memory, self._loss.device, each, plenty=_PLENTY)
        if spend < each:
            work.note = f"one needs {mib(each)}, more than the {mib(spend)} to spend"
        return max(1, spend // each)

    def _flush(self, advance: Callable[[int], None]) -> None:
        """Send what waits, all that has one cut together."""
        for place, sent in self._waiting.items():
            began = time.perf_counter()
            before, start, product = self._passes(place), 0, None
            gradient = self._gradients[place]
            if gradient is not None and gradient.requires_grad:
                for one in sent:
                    one.block = one.block.multiplied()
                vectors = torch.cat([one.block.spread() for one in sent]) if len(sent) > 1 else sent[0].block.spread()
                edge = sent[0].work.chain.cut
                product = self.product(place, edge, vectors)
                if product is not None:
                    self._mix(place, sent, vectors, product)
            works = dict.fromkeys(one.work for one in sent)
            for one in sent:
                part = None if product is None else product[start : start + one.piece.size]
                one.work.read(one.piece, one.block, part)
                start += one.piece.size
            for work in works:
                work.passes += self._passes(place) - before
                work.seconds += (time.perf_counter() - began) / len(works)
            advance(start)
        self._waiting.clear()
        self._held = 0.0

    def _passes(self, place: Place) -> int:
        return self._engine[place].passes if place in self._engine else 0

    def _mix(self, place: Place, sent: list[_Sent], vectors: Tensor, product: Tensor) -> None:
        """Add a random mixture of the tangents, and what they gave, to those that are compared at the end."""
        alike: dict[tuple[Place, tuple[object, ...]], list[int]] = {}
        start = 0
        for one in sent:
            key = place, one.work.told_apart(one.block)
            if key not in self._mixtures:
                empty = torch.zeros_like(vectors[0]), torch.zeros_like(product[0])
                self._mixtures[key] = _Mixture(one.work.chain.cut, one.work.weights(one.block), *empty)
            self._mixtures[key].works[one.work] = None
            alike.setdefault(key, []).extend(range(start, start + one.piece.size))
            start += one.piece.size
        for key, rows in alike.items():
            some = (vectors, product) if len(rows) == len(vectors) else (vectors[rows], product[rows])
            self._mixtures[key].add(*some)
