"""The split of a diagonal, read off the graph's structure as method "graph" of `hessian_diagonal` reads the diagonal.

Where a parameter enters linearly and the rows of what it enters into are samples of their own, one tangent for each
unit serves all samples and all weights of that unit: with x what the weights are multiplied with, operation k adds
Σ_n x[n, f]² c_k[o, n] to the entry [o, f], c_k[o, n] being what it adds along the one-hot tangent of unit o, of sample
n. What operations by entry add is known in closed form while the tangents are carried to the cut; behind it the second
pass tells, its products summed up by sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradgraph.curvature.apart import labels_of
from gradgraph.curvature.apart_rules import Labels
from gradgraph.curvature.budget import budget, bytes_per_row
from gradgraph.curvature.chains import Chain, Slopes, chain_behind
from gradgraph.curvature.groups import Groups, grouped
from gradgraph.curvature.readings import Readings
from gradgraph.curvature.sites import Place, Site, Use, find_sites
from gradgraph.curvature.split_adjoints import Adjoints
from gradgraph.curvature.split_parts import after_outputs
from gradgraph.curvature.split_pass import fitted
from gradgraph.curvature.split_rows import SplitRows
from gradgraph.curvature.work import Work
from gradgraph.walk import Walk

__all__ = ["SplitGraph"]


@dataclass
class _Plan:
    """A site whose rows are samples, what follows it, and the labels of those."""

    site: Site
    groups: Groups
    chain: Chain


class SplitGraph:
    """The parameters of one loss whose diagonal can be split so, and their split.

    Args:
        loss: the loss.
        tensors: the parameters by name.

    Attributes:
        edges: the edges whose gradients are wanted besides the parameters', by place.
    """

    def __init__(self, loss: Tensor, tensors: Mapping[str, Tensor]) -> None:
        self._loss = loss
        self._tensors = dict(tensors)
        self._adjoints: Adjoints
        walk = self._walk = Walk()
        walk.follow([get_gradient_edge(loss)])
        found = find_sites(walk, tensors)
        every = sorted(set(zip(walk.target, walk.output_nr, strict=True)))
        self._labels = labels_of(walk, every) if found.sites else {}
        self._plans: list[_Plan] = []
        for site in found.sites:
            groups = grouped(site, self._labels.get(site.place))
            if site.place in self._labels and groups.each == 1:
                chain = chain_behind(walk, found.consumers, site, by_row=True)
                self._plans.append(_Plan(site, groups, chain))
        self.edges: dict[Place, GradientEdge] = {}
        for plan in self._plans:
            self.edges.update(plan.chain.edges)
        self._uses: dict[str, int] = {}
        for site in found.sites:
            for use in site.uses:
                self._uses[use.name] = self._uses.get(use.name, 0) + 1

    def watch(self, adjoints: Adjoints) -> None:
        """Take note of how the gradients are made."""
        self._adjoints = adjoints

    def choose(self, gradients: Mapping[Place, Tensor]) -> list[str]:
        """Keep the sites at which all that matters is told apart by sample; the names of the parameters there.

        `watch` was called before.
        """
        adjoints = self._adjoints
        kept: list[_Plan] = []
        slopes: Slopes = {}
        for plan in self._plans:
            if any(place not in gradients for place in plan.chain.edges):
                continue
            if not plan.chain.prepare(gradients, slopes):
                plan = _Plan(plan.site, plan.groups, Chain(plan.site, ()))
            behind = after_outputs(adjoints, [plan.chain.last])
            places = {edge.place for edges in adjoints.edges.values() for edge in edges}
            wanted = [place for place in places if place[0] in behind or place == plan.chain.last]
            if all(self._order(plan, place) is not None for place in [*wanted, plan.chain.last]):
                kept.append(plan)
        self._plans = kept
        count: dict[str, int] = {}
        for plan in kept:
            for use in plan.site.uses:
                count[use.name] = count.get(use.name, 0) + 1
        return [name for name in self._tensors if count.get(name, 0) and count[name] == self._uses[name]]

    def entries(
        self, rows: SplitRows, gradients: Mapping[Place, Tensor], names: Iterable[str], memory: int | None
    ) -> dict[str, dict[int, Tensor]]:
        """By name and node what each adds to the diagonal, in the parameter's shape."""
        wanted = set(names)
        found: dict[str, dict[int, Tensor]] = {name: {} for name in wanted}
        for plan in self._plans:
            if not any(use.name in wanted for use in plan.site.uses):
                continue
            for key, readings in self._read(plan, rows, gradients, memory).items():
                for use, diagonal in readings.results():
                    if use.name in wanted:
                        values = self._carried_back(use, diagonal)
                        found[use.name][key] = found[use.name][key] + values if key in found[use.name] else values
        return found

    def _carried_back(self, use: Use, diagonal: Tensor) -> Tensor:
        """The diagonal of a parameter, from that of a selection of it: what the selection's own backward does."""
        edge = get_gradient_edge(self._tensors[use.name])
        if (use.operand.node, use.operand.output_nr) == (edge.node, edge.output_nr):
            return diagonal
        (values,) = torch.autograd.grad([use.operand], [edge], [diagonal], retain_graph=True)
        return values

    def _read(
        self, plan: _Plan, rows: SplitRows, gradients: Mapping[Place, Tensor], memory: int | None
    ) -> dict[int, Readings]:
        work = Work(plan.site, plan.groups, plan.chain, "rows")
        cut = plan.chain.last
        found: dict[int, Readings] = {}
        pairing = self._pairing(plan)
        gradient = gradients[cut]
        before = sum(math.prod(step.shape) for step in plan.chain.steps) + math.prod(plan.site.shape)
        each = bytes_per_row(gradient) + before * gradient.element_size()
        most = max(1, budget(memory, self._loss.device) // each)
        for piece in work.pieces(0, plan.site.sizes[1], most):
            block = work.block(piece)
            vectors = block.spread()
            parts: dict[int, Tensor] = {}
            for place, sums in block.sums.items():
                parts[place[0]] = sums[:, 0]
            if gradient.requires_grad:
                for key, values in rows.along({cut: vectors}, pairing).by_node().items():
                    values = values.to(vectors.dtype)
                    parts[key] = parts[key] + values if key in parts else values
            for key, values in parts.items():
                if key not in found:
                    found[key] = Readings(plan.site)
                found[key].of_rows(piece.first, piece.last, values)
        return found

    def _pairing(self, plan: _Plan) -> Callable[[Place, Tensor, Tensor], Tensor]:
        """Sums the products of s and tangents by sample, `[rows]`."""

        def by_sample(place: Place, s: Tensor, tangent: Tensor) -> Tensor:
            order = self._order(plan, place)
            assert order is not None
            sizes, mine, others = order
            product = (fitted(s, tangent) * tangent).reshape(sizes).permute(*mine, *others)
            return product.reshape(plan.groups.samples, -1).sum(1)

        return by_sample

    def _order(self, plan: _Plan, place: Place) -> tuple[list[int], list[int], list[int]] | None:
        """Sizes of the factors of a tensor's axes, and which of those number the site's rows, and which do not."""
        labels = self._labels.get(place)
        own = self._labels[plan.site.place]
        lead, _, trail = plan.site.sizes
        if labels is None:
            return None
        wanted = [label for _, label in _row_factors(plan.site.shape, own, lead, trail)]
        factors = [factor for axis in labels for factor in axis]
        known = [factor.label for factor in factors]
        if any(known.count(label) != 1 for label in wanted):
            return None
        mine = [known.index(label) for label in wanted]
        others = [place for place in range(len(factors)) if place not in mine]
        return [factor.size for factor in factors], mine, others


def _row_factors(shape: tuple[int, ...], labels: Labels, lead: int, trail: int) -> list[tuple[int, int]]:
    """Size and label of the factors of the rows `l * P + p` of a site."""
    before = _filling(shape, lead)
    after = _filling(shape[::-1], trail)
    axes = (*labels[:before], *labels[len(labels) - after :])
    return [(factor.size, factor.label) for axis in axes for factor in axis if factor.size != 1]


def _filling(shape: tuple[int, ...], size: int) -> int:
    axes = 0
    while math.prod(shape[:axes]) < size:
        axes += 1
    return axes
