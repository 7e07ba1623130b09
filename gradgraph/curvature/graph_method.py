"""The diagonal read off the graph's structure: method "graph".

Where a parameter enters linearly (`sites`), the Hessian of what it enters into is enough. Tangents of that are carried
in closed form as far as operations are simple (`chains`), and sent through the engine from there, all samples at once
where the loss keeps them apart (`groups`). What the engine gives is checked by a pass of its own, along a random
mixture of the tangents at a random half of the samples: a wrong batching rule shows, and a hook that mixes samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradgraph.curvature.chains import derivatives
from gradgraph.curvature.first_order import Differentiate, FirstOrder
from gradgraph.curvature.graph_plan import GraphPlan
from gradgraph.curvature.handed import handed
from gradgraph.curvature.report import ParameterReport
from gradgraph.curvature.sender import Sender
from gradgraph.curvature.sharding import Share
from gradgraph.curvature.shared import Shared
from gradgraph.curvature.shared_pass import SharedPass, own_adjoints
from gradgraph.curvature.sites import Place, Site, Term, Use
from gradgraph.curvature.work import Work
from gradgraph.walk import edge_of

__all__ = ["GraphMethod"]


_DISAGREES = "a pass of its own gave something else: a hook, or a batching rule, mixes samples"


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
        self._works: list[Work] = []
        self._shared: list[Shared] = []
        self._adjoints: dict[Place, Tensor] = {}
        self._bends: list[tuple[Term, Tensor]] = []
        self._reset: Callable[[], None] = lambda: None
        self._stand_ins: set[str] = set()  # parameters in place of whose gradients those of their sites are taken
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
        edges.update(self._plan.between)
        # Where more than sites gives to a gradient, all nodes must run: what hooks make of it shows there alone.
        several: list[Term | Shared] = [*self._plan.terms, *self._plan.shared]
        taken = {use.name for site in self._plan.sites for use in site.uses}
        taken -= {use.name for one in several for use in one.uses}
        others = {name: one for name, one in self._tensors.items() if name not in taken and one.requires_grad}
        with handed(self._plan.simple(self._chains)) as self._handed, own_adjoints(self._plan.fed) as self._adjoints:
            received = self._differentiated([*edges.values(), *map(edge_of, others.values())])
        self._gradients = dict(zip(edges, received, strict=False))
        for one in self._plan.entered:
            # What is captured at a node that runs as well has not been through the hooks on its output.
            if not self._handed.took(one.place, self._gradients[one.place]):
                self._refuse(one, f"a hook changes the gradient of {one.node.name()}")
        if not all(self._handed.took(place, self._gradients[place]) for place in self._plan.between):
            for shared in self._plan.shared:
                self._refuse(shared, "a hook changes a gradient between its places")
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
        self._sender = Sender(
            self._gradients, self._loss, self._plan.precision, reset, chunk_size=self._chunk_size, memory=self._memory
        )
        for term in self._plan.terms:
            gradient = self._gradients[term.place]
            if gradient is None:
                continue
            if gradient.requires_grad:
                # What it gives to the loss is not a term of its own, and may go with what a site gives.
                self._refuse(
                    term, f"it enters through {term.node.name()} by entry, and its gradient there is not constant"
                )
                continue
            _, bend = derivatives(term.node, term.slots, term.use.operand, gradient)
            if bend is not None:
                self._bends.append((term, bend))
        chains = {
            site: ways for site, ways in self._chains.items() if any(use.name not in self.refused for use in site.uses)
        }
        self._works = self._plan.works(chains, self._gradients, self._sender.product, self._handed)
        self.tangents = sum(work.each * work.site.sizes[1] for work in self._works)
        for shared in self._plan.shared:
            shared.start(self._plan.labels())
            if shared.tangents >= shared.entries:
                why = ", since no samples are told apart" if shared.samples == 1 else ""
                takes = f"{shared.tangents} tangents instead of {shared.entries} rows{why}"
                self._refuse(shared, f"it is used at {len(shared.sites)} places, which would take {takes}")
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
        for work in self._works:
            self._sender.send(work, *share.slice(work.site.sizes[1]), advance)
        for work in self._sender.finish(advance):
            self._refuse(work.site, _DISAGREES)
        for shared in self._shared:
            passes = SharedPass(shared, self._gradients, self._adjoints, self._plan.precision, self._reset)
            if not passes.run(share, advance, self._chunk_size, self._memory):
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

    def _refuse(self, one: Site | Term | Shared, why: str) -> None:
        self.refused.update((use.name, why) for use in one.uses)
