"""The diagonal read off the graph's structure: method "graph".

Where a parameter enters linearly (`sites`), the Hessian of what it enters into is enough. Tangents of that are carried
in closed form as far as operations are simple (`chains`), and sent through the engine from there, all samples at once
where the loss keeps them apart (`groups`). What the engine gives is checked by a pass of its own, along a random
mixture of the tangents at a random half of the samples: a wrong batching rule shows, and a hook that mixes samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradgraph.curvature.budget import budget, bytes_per_row, mib
from gradgraph.curvature.chains import derivatives
from gradgraph.curvature.first_order import Differentiate, FirstOrder
from gradgraph.curvature.graph_plan import GraphPlan
from gradgraph.curvature.handed import handed
from gradgraph.curvature.report import ParameterReport
from gradgraph.curvature.rows import Plan, products_of
from gradgraph.curvature.sharding import Share
from gradgraph.curvature.shared import Shared
from gradgraph.curvature.shared_pass import SharedPass, own_adjoints
from gradgraph.curvature.sites import Place, Site, Term, Use
from gradgraph.curvature.tangents import Block
from gradgraph.curvature.work import Piece, Work
from gradgraph.walk import edge_of

__all__ = ["GraphMethod"]


_DISAGREES = "a pass of its own gave something else: a hook, or a batching rule, mixes samples"

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

    def agrees(self, found: Tensor, close: float) -> bool:
        """Whether the engine gave `found` for the weighted mixture rightly; `close` is the relative difference."""
        # Where samples weigh nothing, nothing may be, to the last bit.
        if self.weights is not None and bool(found.masked_fill(self.weights != 0, 0).count_nonzero()):
            return False
        expected = self.weighted(self.product)
        return bool(torch.dist(found, expected) <= close * torch.linalg.vector_norm(expected))


class GraphMethod:
    """The parameters of one loss that can be read off the graph, and what is read.

    Args:
        loss: the loss.
        tensors: the parameters by name.
        chunk_size: tangents per pass; None for as many as `memory` holds.
        memory: bytes for the tangents of one pass; None for what is plenty.

    Attributes:
        refused: why a parameter must be computed otherwise, in words.
        tangents: how many are to be sent, once planned.
    """

    def __init__(self, loss: Tensor, tensors: Mapping[str, Tensor], chunk_size: int | None, memory: int | None) -> None:
        self._loss = loss
        self._tensors = dict(tensors)
        self._chunk_size = chunk_size
        self._memory = memory
        self._gradients: dict[Place, Tensor | None] = {}
        self._engine: dict[Place, Plan] = {}
        self._works: list[Work] = []
        self._shared: list[Shared] = []
        self._adjoints: dict[Place, Tensor] = {}
        self._bends: list[tuple[Term, Tensor]] = []
        self._reset: Callable[[], None] = lambda: None
        self._mixtures: dict[tuple[Place, tuple[object, ...]], _Mixture] = {}
        self._stand_ins: set[str] = set()  # parameters in place of whose gradients those of their sites are taken
        self._rows: dict[Place, int] = {}  # bytes of one behind a cut
        self.refused: dict[str, str] = {}
        self.tangents = 0

    def differentiate(self, differentiate: Differentiate) -> dict[str, Tensor]:  # noqa: ARG002 - what `run` is given
        """The first-order pass, for what the sites need in place of their parameters' gradients.

        Gives a gradient by name: the parameter's, or that of z at its site.
        """
        self._plan = GraphPlan(self._loss, self._tensors)
        self._chains = self._plan.chains()
        self.refused.update(self._plan.refused)
        edges = {
            place: edge for ways in self._chains.values() for one in ways.values() for place, edge in one.edges.items()
        }
        edges.update((one.place, one.edge) for one in self._plan.entered)
        taken = {use.name for site in self._plan.sites for use in site.uses} - {
            one.use.name for one in self._plan.terms
        }
        others = {name: one for name, one in self._tensors.items() if name not in taken and one.requires_grad}
        with handed(self._plan.simple(self._chains)) as self._handed, own_adjoints(self._plan.fed) as self._adjoints:
            received = self._differentiated([*edges.values(), *map(edge_of, others.values())])
        self._gradients = dict(zip(edges, received, strict=False))
        for one in self._plan.entered:
            # What is captured at a node that runs as well has not been through the hooks on its output.
            if not self._handed.took(one.place, self._gradients[one.place]):
                self._refuse(one, f"a hook changes the gradient of {one.node.name()}")
        with torch.enable_grad():
            found = {
                name: gradient.to_dense()
                for name, gradient in zip(others, received[len(edges) :], strict=True)
                if gradient is not None
            }
        self._stand_ins = taken
        for site in self._plan.sites:
            gradient = self._gradients[site.place]
            for use in site.uses:
                known = use.name not in taken or (use.name in found and found[use.name].requires_grad)
                if gradient is not None and not known:
                    found[use.name] = gradient
        return found

    def plan(self, reset: Callable[[], None]) -> None:
        """Choose each site's way."""
        self._reset = reset
        for term in self._plan.terms:
            gradient = self._gradients[term.place]
            if gradient is None:
                continue
            if gradient.requires_grad:
                # What it gives to the loss is not a term of its own, and may go with what a site gives.
                self._refuse(term, f"it enters through {term.node.name()}")
                continue
            _, bend = derivatives(term.node, term.slots, term.use.operand, gradient)
            if bend is not None:
                self._bends.append((term, bend))
        chains = {
            site: ways for site, ways in self._chains.items() if any(use.name not in self.refused for use in site.uses)
        }
        self._works = self._plan.works(chains, self._gradients, self._product, self._handed)
        self.tangents = sum(work.each * work.site.sizes[1] for work in self._works)
        for shared in self._plan.shared:
            shared.start(self._plan.labels())
            if shared.tangents >= shared.entries:
                self._refuse(shared, f"it is used at {len(shared.sites)} places")
            elif not any(use.name in self.refused for use in shared.uses):
                self._shared.append(shared)
                self.tangents += shared.tangents

    @property
    def names(self) -> list[str]:
        """The parameters that are read off."""
        names = dict.fromkeys(use.name for work in self._works for use in work.site.uses)
        names.update(dict.fromkeys(use.name for shared in self._shared for use in shared.uses))
        names.update(dict.fromkeys(term.use.name for term in self._plan.terms))
        return [name for name in names if name not in self.refused]

    def supply(self, name: str, order: FirstOrder) -> bool:
        """See to it that `order` has the gradient of a parameter itself, not of z; whether that has a graph."""
        if name in self._stand_ins:
            (found,) = self._differentiated([edge_of(self._tensors[name])])
            assert found is not None
            with torch.enable_grad():
                order.gradients[name] = found.to_dense()
            order.reached[name] = "curved" if found.requires_grad else "linear"
        return order.gradients[name].requires_grad

    def run(self, share: Share, advance: Callable[[int], None]) -> None:
        """Send all tangents of this rank's share."""
        waiting: dict[Place, list[_Sent]] = {}
        held = 0.0
        for work in self._works:
            began = time.perf_counter()
            first, last = share.slice(work.site.sizes[1])
            most = self._most(work)
            work.chunk = min(most, work.each * work.site.sizes[1])
            for piece in work.pieces(first, last, most):
                waiting.setdefault(work.chain.last, []).append(_Sent(work, piece, work.block(piece)))
                held += piece.size / most
                if held >= 1:
                    self._flush(waiting, advance)
                    held = 0.0
            work.seconds += time.perf_counter() - began
        self._flush(waiting, advance)
        self._compare()
        for shared in self._shared:
            sender = SharedPass(shared, self._gradients, self._adjoints, self._plan.precision, self._reset)
            if not sender.run(share, advance, self._chunk_size, self._memory):
                self._refuse(shared, _DISAGREES)

    def results(self, share: Share) -> dict[str, tuple[Tensor, ParameterReport]]:
        """This rank's part of the diagonal and how it was computed, by name."""
        uses = [(use, diagonal) for work in self._works for use, diagonal in work.results()]
        uses += [(term.use, bend) for term, bend in self._bends if share.rank == 0]
        uses += [found for shared in self._shared for found in shared.results()]
        self._check_selections(uses)
        for shared in self._shared:
            one = {use.name: diagonal for use, diagonal in shared.results()}
            self._check_selections([(use, one[use.name]) for site in shared.alike for use in site.uses])
        self._agree(share)
        values = {name: torch.zeros_like(self._tensors[name]) for name in self.names}
        for use, diagonal in uses:
            if use.name in values:
                values[use.name] += self._plan.handed_back(use, diagonal)
        return {name: (values[name], self._report(name)) for name in self.names}

    def _check_selections(self, uses: list[tuple[Use, Tensor]]) -> None:
        """Refuse the parameters on selections of which a hook has a say: the engine then gives something else."""
        waiting = [one for one in uses if one[0].operand != self._plan.edges[one[0].name]]
        while waiting := [one for one in waiting if one[0].name not in self.refused]:
            # One use of each parameter a pass, so that what arrives at a node is of one use.
            several = {one[0].name: one for one in waiting}
            waiting = [one for one in waiting if several[one[0].name] is not one]
            paths = {name: self._plan.selections(use) for name, (use, _) in several.items()}
            sent = {name: diagonal.clone() for name, (_, diagonal) in several.items()}  # a hook may change it in place
            with handed({key: self._plan.node(key) for path in paths.values() for key, _, _ in path}) as seen:
                received = torch.autograd.grad(
                    [use.operand for use, _ in several.values()],
                    [self._plan.edges[name] for name in several],
                    list(sent.values()),
                    retain_graph=True,
                )
            for found, (name, (use, diagonal)) in zip(received, several.items(), strict=True):
                alike = torch.equal(found, self._plan.handed_back(use, diagonal))
                given: Tensor | None = sent[name]
                for key, nr, slot in paths[name]:
                    alike &= seen.took((key, nr), given)
                    given = seen.given[key][slot][0]
                if not alike or given is not found:
                    self.refused[name] = "a hook changes the gradient of a selection of it"

    def _agree(self, share: Share) -> None:
        """Refuse what another rank has refused."""
        flags = torch.tensor([float(name in self.refused) for name in self._tensors], device="cpu")
        share.sum_([flags])
        for name, flag in zip(self._tensors, flags.tolist(), strict=True):
            if flag and name in self.names:
                self.refused[name] = _DISAGREES

    def _report(self, name: str) -> ParameterReport:
        works: list[Work | Shared] = [work for work in self._works if any(use.name == name for use in work.site.uses)]
        works += [shared for shared in self._shared if any(use.name == name for use in shared.uses)]
        terms = [f"{term.node.name()} by entry" for term in self._plan.terms if term.use.name == name]
        curved = any(work.curved for work in works) or any(term.use.name == name for term, _ in self._bends)
        return ParameterReport(
            method="graph",
            exact=True,
            passes=sum(work.passes for work in works),
            chunk=max((work.chunk for work in works), default=0),
            reason="; ".join(dict.fromkeys([*(work.reason for work in works), *terms])),
            reached="curved" if curved else "linear",
            seconds=sum(work.seconds for work in works),
        )

    def _differentiated(self, edges: list[GradientEdge]) -> tuple[Tensor | None, ...]:
        if not edges:
            return ()
        return torch.autograd.grad(
            [get_gradient_edge(self._loss)], edges, [torch.ones_like(self._loss)], create_graph=True, allow_unused=True
        )

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

    def _refuse(self, one: Site | Term | Shared, why: str) -> None:
        self.refused.update((use.name, why) for use in one.uses)

    def _flush(self, waiting: dict[Place, list[_Sent]], advance: Callable[[int], None]) -> None:
        """Send what waits, all that has one cut together."""
        for place, sent in waiting.items():
            began = time.perf_counter()
            before, start, product = self._passes(place), 0, None
            gradient = self._gradients[place]
            if gradient is not None and gradient.requires_grad:
                for one in sent:
                    one.block = one.block.multiplied()
                vectors = torch.cat([one.block.spread() for one in sent]) if len(sent) > 1 else sent[0].block.spread()
                edge = sent[0].work.chain.cut
                product = self._product(place, edge, vectors)
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
        waiting.clear()

    def _passes(self, place: Place) -> int:
        return self._engine[place].passes if place in self._engine else 0

    def _product(self, place: Place, edge: GradientEdge, vectors: Tensor) -> Tensor | None:
        gradient = self._gradients[place]
        if gradient is None or not gradient.requires_grad:
            return None
        # The check below is stricter than that of `products_of`.
        plan = self._engine.setdefault(place, Plan(_ALL, "", checked=True))
        parts = [rows for _, (rows,) in products_of(gradient, [edge], vectors, plan, self._reset)]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) > 1 else known[0].detach() if known else None

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

    def _compare(self) -> None:
        """Compare the mixtures, each sample with a weight of its own and half of them with none, with own passes."""
        for (place, _), one in self._mixtures.items():
            before = self._passes(place)
            found = self._product(place, one.edge, one.weighted(one.tangent).unsqueeze(0))
            for work in one.works:
                work.passes += self._passes(place) - before
                if found is None or not one.agrees(found[0], self._plan.precision**0.5):
                    self._refuse(work.site, _DISAGREES)
        self._mixtures.clear()
