"""Which way to take at each site: what each would cost, and which rows are found to be samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from gradgraph.curvature.apart import labels_of
from gradgraph.curvature.apart_rules import Labels, operation, shape_of
from gradgraph.curvature.chains import Chain, Slopes, chain_behind
from gradgraph.curvature.features import count_of
from gradgraph.curvature.groups import Groups, grouped, probed
from gradgraph.curvature.handed import Handed
from gradgraph.curvature.shared import Shared
from gradgraph.curvature.sites import Place, Site, Term, Use, find_sites, reaches
from gradgraph.curvature.tied import Tied
from gradgraph.curvature.work import Way, Work
from gradgraph.teardown import lay_fuses
from gradgraph.walk import Walk

__all__ = ["GraphPlan"]

#: The Hessian at an edge times vectors `[k, *shape]`; None where it is zero.
Product = Callable[[Place, GradientEdge, Tensor], "Tensor | None"]

_OVERHEAD = 2_000  # what starting one tangent costs, in entries


class GraphPlan:
    """The sites of some parameters in the graph of a loss, and what is known of them from its structure alone.

    Attributes:
        sites: where they enter.
        terms: operations by entry that take them as well.
        shared: what enters at several sites.
        refused: why a parameter has no site, in words.
        edges: where the gradient of each parameter arrives.
    """

    def __init__(self, loss: Tensor, tensors: Mapping[str, Tensor]) -> None:
        self._walk = Walk()
        self._walk.follow([get_gradient_edge(loss)])
        lay_fuses(self._walk)
        found = find_sites(self._walk, tensors, terms=True)
        self.sites = found.sites
        self.terms = found.terms
        self.refused = found.refused
        self.edges = found.edges
        self._consumers = found.consumers
        self._labels: dict[Place, Labels] | None = None
        self.shared: list[Shared] = []
        for sites in found.shared:
            self._add_shared(sites)
        for embedding, head in found.tied:
            self._add_tied(embedding, head)

    @property
    def entered(self) -> list[Site | Term]:
        """The nodes by which parameters enter."""
        return [*self.sites, *self.terms, *(site for one in self.shared for site in one.sites)]

    @cached_property
    def between(self) -> dict[Place, GradientEdge]:
        """Where gradients arrive between the loss and what is shared and feeds itself: tangents are read there."""
        return self._behind_all([site for one in self.shared if one.fed for site in one.sites])

    def _behind_all(self, sites: list[Site]) -> dict[Place, GradientEdge]:
        found: dict[Place, GradientEdge] = {}
        stack = [site.place for site in sites]
        while stack:
            for key, _ in self._consumers.get(stack.pop(), ()):
                node = self._walk.nodes[key]
                for place in ((key, nr) for nr in range(len(node._input_metadata))):
                    if place not in found and place in self._consumers:
                        found[place] = GradientEdge(node, place[1])
                        stack.append(place)
        return found

    @property
    def fed(self) -> dict[Place, Node]:
        """What is multiplied with a shared weight and depends on it: the nodes, by the places of their outputs."""
        return {place: self._walk.nodes[place[0]] for one in self.shared for place in one.fed.values()}

    @property
    def precision(self) -> float:
        """The relative rounding of the coarsest numbers in the graph: a float64 model may have a float32 loss."""
        kinds = {one.dtype for node in self._walk.nodes for one in node._input_metadata}
        return max(torch.finfo(kind).eps for kind in kinds if kind.is_floating_point or kind.is_complex)

    def labels(self) -> dict[Place, Labels]:
        """What the loss keeps apart of each z, computed when first asked for."""
        if self._labels is None:
            self._labels = labels_of(self._walk, [one.place for one in self.entered if isinstance(one, Site)])
        return self._labels

    def _add_shared(self, sites: list[Site]) -> None:
        """Take down what is shared at `sites`, if it can be read there."""
        why = ""
        if any(not self._alike([getattr(site, role) for site in sites]) for role in ("weight", "bias")):
            why = "which take its entries in another order"
        fed = {number: place for number, site in enumerate(sites) if (place := self._fed(site)) is not None}
        # Where z is itself an x, its tangent is the one-hot too.
        if {site.place for site in sites} & set(fed.values()):
            why = "of which one multiplies what another gives"
        # The backward of a Function of the user's need not be the gradient.
        if fed and any(not operation(edge.node) for edge in self._behind_all(sites).values()):
            why = "of which one feeds another, and a backward behind them is not torch's own"
        if fed and sites[0].kind != "matrix":
            why = "of which one feeds another"
        if why:
            self._refuse_shared(sites, why)
        else:
            self.shared.append(Shared(sites, fed))

    def _add_tied(self, embedding: Site, head: Site) -> None:
        assert embedding.weight is not None
        assert head.weight is not None
        fed = self._fed(head)
        words, units = embedding.weight.shape
        numbers = torch.arange(1, words * units + 1, dtype=torch.float64, device="cpu").view(words, units)
        both = self.handed_back(embedding.weight, numbers), self.handed_back(head.weight, numbers.t())
        if fed is None or fed == embedding.place or head.weight.shape != (units, words) or not torch.equal(*both):
            self._refuse_shared([embedding, head], "an embedding and a head that cannot be read together")
        else:
            self.shared.append(Tied(embedding, head, fed))
            self.sites.append(head)

    def _refuse_shared(self, sites: list[Site], why: str) -> None:
        names = {use.name for site in sites for use in site.uses}
        self.refused.update(dict.fromkeys(names, f"it is used at {len(sites)} places, {why}"))

    def _fed(self, site: Site) -> Place | None:
        """Where what is multiplied with the weight comes from, if it depends on the weight."""
        if site.weight is None:
            return None
        walk = self._walk
        own = walk.key_of[self.edges[site.weight.name].node]
        slot = {"Addmm": 1}.get(operation(site.node), 0)
        for edge in range(walk.start[site.place[0]], walk.start[site.place[0] + 1]):
            if walk.slot[edge] == slot and reaches(walk, [walk.target[edge]], own):
                return walk.target[edge], walk.output_nr[edge]
        return None

    def _alike(self, uses: list[Use | None]) -> bool:
        """Whether the same entry of one parameter is at the same place of each use."""
        known = [use for use in uses if use is not None]
        if not known:
            return True
        numbers = torch.arange(1, math.prod(known[0].shape) + 1, dtype=torch.float64, device="cpu").view(known[0].shape)
        first, *others = (self.handed_back(use, numbers) for use in known)
        return all(torch.equal(first, other) for other in others)

    def handed_back(self, use: Use, tensor: Tensor) -> Tensor:
        """A tensor of the use's shape in that of its parameter: the backward of the selections, hooks apart."""
        for key, nr, slot in self.selections(use):
            node: Any = self._walk.nodes[key]
            outputs: list[Tensor | None] = [None] * len(node._input_metadata)
            outputs[nr] = tensor
            found = node(*outputs)
            tensor = found[slot] if isinstance(found, tuple) else found
        return tensor

    def selections(self, use: Use) -> list[tuple[int, int, int]]:
        """From what enters to its parameter: key, number of the output and slot of each selection."""
        walk, own = self._walk, self.edges[use.name]
        found = []
        key, nr = walk.key_of[use.operand.node], use.operand.output_nr
        while (walk.nodes[key], nr) != (own.node, own.output_nr):
            edge = walk.start[key]
            found.append((key, nr, walk.slot[edge]))
            key, nr = walk.target[edge], walk.output_nr[edge]
        return found

    def node(self, key: int) -> Node:
        """The node that has the key."""
        return self._walk.nodes[key]

    def simple(self, chains: Mapping[Site, Mapping[Way, Chain]]) -> dict[int, Node]:
        """The nodes by which parameters enter, those between and those of `chains`, by key."""
        found = {one.place[0]: one.node for one in self.entered}
        found.update((place[0], edge.node) for place, edge in self.between.items())
        found.update(
            (step.place[0], step.node) for ways in chains.values() for one in ways.values() for step in one.steps
        )
        return found

    def chains(self) -> dict[Site, dict[Way, Chain]]:
        """What may follow each site, by the way that is taken there."""
        found: dict[Site, dict[Way, Chain]] = {}
        for site in self.sites:
            by_row = free = chain_behind(self._walk, self._consumers, site, by_row=True)
            if not by_row.ends_at_loss:
                free = chain_behind(self._walk, self._consumers, site, by_row=False)
            found[site] = {"rows": by_row, "pairs": Chain(site, ()), "entries": free}
        return found

    def works(
        self,
        chains: Mapping[Site, Mapping[Way, Chain]],
        gradients: Mapping[Place, Tensor | None],
        product: Product,
        seen: Handed,
    ) -> list[Work]:
        """The cheapest way at each site whose gradient depends on anything."""
        works = []
        slopes: Slopes = {}
        for site, ways in chains.items():
            gradient = gradients[site.place]
            if gradient is None or not gradient.requires_grad:
                continue
            chain = ways["rows"]
            if _is_closed(chain, gradients) and seen.along(chain, gradients) and chain.prepare(gradients, slopes):
                lead, _, trail = site.sizes
                groups = Groups(((lead * trail, True),), "as the operations behind it show")
                works.append(Work(site, groups, chain, "rows"))
                continue
            groups = grouped(site, self.labels().get(site.place))
            way: Way = "rows"
            if groups.each > 1:
                groups, way = self._weighed(site, groups, ways, product)
            chain = ways[way]
            known = seen.along(chain, gradients) and chain.prepare(gradients, slopes)
            works.append(Work(site, groups, chain if known else Chain(site, ()), way))
        return works

    def _weighed(self, site: Site, groups: Groups, ways: Mapping[Way, Chain], product: Product) -> tuple[Groups, Way]:
        """The cheapest way, and what probes have found on the way to it."""
        sizes = {way: self._behind(chain.last) for way, chain in ways.items()}

        def cheapest(groups: Groups) -> tuple[float, Way]:
            return min((cost, way) for way, cost in _costs(site, groups, sizes).items())

        def multiplied(vectors: Tensor) -> Tensor | None:
            return product(site.place, site.edge, vectors)

        def worth(hoped: Groups, bits: int) -> bool:
            return cheapest(hoped)[0] + 2 * bits * sizes["pairs"] < least

        least, _ = cheapest(groups)
        groups = probed(site, groups, multiplied, worth)
        return groups, cheapest(groups)[1]

    def _behind(self, place: Place) -> int:
        """Entries of all that the loss makes of the output at `place`."""
        walk = self._walk
        seen: set[int] = set()
        stack = [place]
        total = 0
        while stack:
            for key, _ in self._consumers.get(stack.pop(), ()):
                if key not in seen:
                    seen.add(key)
                    outputs = range(len(walk.nodes[key]._input_metadata))
                    total += sum(math.prod(shape_of(walk.nodes[key], nr) or ()) for nr in outputs)
                    stack += [(key, nr) for nr in outputs]
        return total


def _is_closed(chain: Chain, gradients: Mapping[Place, Tensor | None]) -> bool:
    """Whether a chain by row ends at a sum over entries that the loss is linear in: its rows are then apart."""
    last = gradients[chain.last]
    return chain.ends_at_loss and last is not None and not last.requires_grad


def _costs(site: Site, groups: Groups, sizes: Mapping[Way, int]) -> dict[Way, float]:
    """Entries that are computed on each way: per tangent those behind the cut twice, and those before it once."""
    units = site.sizes[1]
    whole = {way: 2 * size + _OVERHEAD for way, size in sizes.items()}
    if groups.each == 1:
        return {"rows": units * whole["rows"]}
    found: dict[Way, float] = {"pairs": units * groups.each * whole["pairs"]}
    if site.kind != "embedding":
        carried = (sizes["pairs"] - sizes["entries"]) / units
        found["entries"] = units * (count_of(site) + (site.bias is not None)) * (whole["entries"] + carried)
    return found
