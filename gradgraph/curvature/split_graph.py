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
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradgraph.curvature.apart import labels_of
from gradgraph.curvature.budget import budget, bytes_per_row
from gradgraph.curvature.chains import Chain, Slopes, chain_behind
from gradgraph.curvature.features import features, placed
from gradgraph.curvature.groups import Groups, grouped
from gradgraph.curvature.readings import Readings
from gradgraph.curvature.sites import Place, Site, Use, find_sites
from gradgraph.curvature.split_adjoints import Adjoints
from gradgraph.curvature.split_parts import after_outputs
from gradgraph.curvature.split_pass import fitted
from gradgraph.curvature.split_rows import SplitRows
from gradgraph.curvature.work import Way, Work
from gradgraph.walk import Walk, edge_of

__all__ = ["SplitGraph"]


@dataclass
class _Plan:
    """A site, which of its rows are samples, what tangents are carried through, and which those are."""

    site: Site
    groups: Groups
    chain: Chain
    way: Way


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
        if tensors:
            walk.follow([get_gradient_edge(loss)])
        found = find_sites(walk, tensors)
        every = sorted(set(zip(walk.target, walk.output_nr, strict=True)))
        self._labels = labels_of(walk, every, linear=True) if found.sites else {}
        self._plans: list[_Plan] = []
        self._apart: dict[tuple[Place, tuple[int, ...]], bool] = {}
        for site in found.sites:
            groups = grouped(site, self._labels.get(site.place))
            by_row = site.place in self._labels and groups.each == 1
            if by_row or site.kind != "embedding":
                chain = chain_behind(walk, found.consumers, site, by_row=by_row)
                self._plans.append(_Plan(site, groups, chain, "rows" if by_row else "entries"))
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

    def choose(self, rows: SplitRows, gradients: Mapping[Any, Tensor]) -> list[str]:
        """Keep the sites at which all that matters is told apart by sample; the names of the parameters there.

        `watch` was called before. The structure does not show hooks: whether one mixes samples, a pass tells for each
        cut.
        """
        adjoints = self._adjoints
        kept: list[_Plan] = []
        slopes: Slopes = {}
        for plan in self._plans:
            if any(place not in gradients for place in plan.chain.edges):
                continue
            if not plan.chain.prepare(gradients, slopes):
                plan = _Plan(plan.site, plan.groups, Chain(plan.site, ()), plan.way)
            if plan.way == "rows" and gradients[plan.chain.last].requires_grad:
                behind = after_outputs(adjoints, [plan.chain.last])
                places = {edge.place for edges in adjoints.edges.values() for edge in edges}
                wanted = [place for place in places if place[0] in behind or place == plan.chain.last]
                if any(self._order(plan, place) is None for place in [*wanted, plan.chain.last]):
                    continue
                if not self._stays_apart(plan, rows):
                    continue
            kept.append(plan)
        self._plans = kept
        count: dict[str, int] = {}
        for plan in kept:
            for use in plan.site.uses:
                count[use.name] = count.get(use.name, 0) + 1
        return [name for name in self._tensors if count.get(name, 0) and count[name] == self._uses[name]]

    def entries(
        self, rows: SplitRows, gradients: Mapping[Any, Tensor], names: Iterable[str], memory: int | None
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
        edge = edge_of(self._tensors[use.name])
        if (use.operand.node, use.operand.output_nr) == (edge.node, edge.output_nr):
            return diagonal
        (values,) = torch.autograd.grad([use.operand], [edge], [diagonal], retain_graph=True)
        return values

    def _read(
        self, plan: _Plan, rows: SplitRows, gradients: Mapping[Any, Tensor], memory: int | None
    ) -> dict[int, Readings]:
        work = Work(plan.site, plan.groups, plan.chain, plan.way)
        cut = plan.chain.last
        found: dict[int, Readings] = {}
        pairing = self._pairing(plan) if plan.way == "rows" else None
        gradient = gradients[cut]
        before = sum(math.prod(step.shape) for step in plan.chain.steps) + math.prod(plan.site.shape)
        behind = bytes_per_row(gradient) if gradient.requires_grad else 0
        each = behind + before * gradient.element_size()
        most = max(1, budget(memory, self._loss.device, each) // each)
        for piece in work.pieces(0, plan.site.sizes[1], most):
            block = work.block(piece)
            parts: dict[int, Tensor] = {}
            for place, sums in block.sums.items():
                parts[place[0]] = sums[:, 0] if plan.way == "rows" else sums[..., 0]
            if gradient.requires_grad:
                vectors = block.multiplied().spread()
                for key, values in rows.along({cut: vectors}, pairing).by_node().items():
                    values = values.to(vectors.dtype).view(piece.last - piece.first, -1)
                    parts[key] = parts[key] + values if key in parts else values
            for key, values in parts.items():
                if key not in found:
                    found[key] = Readings(plan.site)
                if plan.way == "rows":
                    found[key].of_rows(piece.first, piece.last, values)
                else:
                    found[key].of_entries(piece.first, piece.last, piece.start, piece.stop, values)
        return found

    def unsure(self, names: Iterable[str], gradients: Mapping[Any, Tensor]) -> list[str]:
        """Those whose gradient is not plainly what the gradient of z makes it: hooks do not show in the structure."""
        wanted = set(names)
        uses = [(plan.site, use) for plan in self._plans for use in plan.site.uses if use.name in wanted]
        return list(dict.fromkeys(use.name for site, use in uses if not self._explained(site, use, gradients)))

    def _explained(self, site: Site, use: Use, gradients: Mapping[Any, Tensor]) -> bool:
        own = edge_of(self._tensors[use.name])
        direct = (use.operand.node, use.operand.output_nr) == (own.node, own.output_nr)
        turned = type(use.operand.node).__name__ == "TBackward0"
        if self._uses[use.name] != 1 or site.kind == "embedding" or not (direct or turned):
            return False
        slope, actual = gradients[site.place].detach().reshape(site.sizes), gradients[use.name].detach()
        if use is site.bias:
            expected = slope.sum((0, 2)).reshape(use.shape)
        else:
            data = features(site)
            if data.shape[2] == 1:
                whole = data.expand(-1, site.sizes[0], 1, site.sizes[2]).flatten(1)
                read = slope.transpose(0, 1).flatten(1) @ whole.t()
            elif data.shape[:1] == (1,) and data.shape[2] == site.sizes[1]:
                read = (data[0] * slope).sum((0, 2)).unsqueeze(1)
            else:
                return False
            expected = placed(site, read)
        expected = expected if direct else expected.t()
        if expected.shape != actual.shape or expected.dtype != actual.dtype:
            return False
        close = torch.finfo(actual.dtype).eps ** 0.5 * float(actual.abs().max())
        return bool((expected - actual).abs().max() <= close)

    def _stays_apart(self, plan: _Plan, rows: SplitRows) -> bool:
        """Whether noise at a random half of the samples, at the cut, leaves all parts of the others exactly zero."""
        cut = plan.chain.last
        order = self._order(plan, cut)
        assert order is not None
        sizes, mine, others = order
        known = cut, tuple(self._row_labels(plan.site))
        if known not in self._apart:
            metadata = plan.chain.cut.node._input_metadata[0]
            generator = torch.Generator().manual_seed(0)
            half = torch.randint(0, 2, (plan.groups.samples,), generator=generator, device="cpu").bool()
            by_axis = half.view([sizes[axis] for axis in mine] + [1] * len(others))
            spread = by_axis.expand([sizes[axis] for axis in (*mine, *others)])
            back = sorted(range(len(sizes)), key=lambda place: (*mine, *others)[place])
            mask = spread.permute(back).reshape(tuple(metadata.shape))
            noise = torch.randn(mask.shape, generator=generator, device="cpu") * mask
            vector = noise.to(metadata.device, metadata.dtype).unsqueeze(0)
            parts = rows.along({cut: vector}, self._pairing(plan)).detail
            quiet = parts.numel() == 0 or not bool(parts[0][:, ~half.to(parts.device)].count_nonzero())
            self._apart[known] = quiet
        return self._apart[known]

    def _pairing(self, plan: _Plan) -> Callable[[Place, Tensor, Tensor], Tensor]:
        """Sums the products of s and tangents by sample, `[rows]`."""

        def by_sample(place: Place, s: Tensor, tangent: Tensor) -> Tensor:
            order = self._order(plan, place)
            assert order is not None
            sizes, mine, others = order
            product = (fitted(s, tangent) * tangent).reshape(sizes).permute((*mine, *others))
            return product.reshape(plan.groups.samples, -1).sum(1)

        return by_sample

    def _order(self, plan: _Plan, place: Place) -> tuple[list[int], list[int], list[int]] | None:
        """Sizes of the factors of a tensor's axes, and which of those number the site's rows, and which do not."""
        labels = self._labels.get(place)
        if labels is None:
            return None
        wanted = self._row_labels(plan.site)
        factors = [factor for axis in labels for factor in axis]
        known = [factor.label for factor in factors]
        if any(known.count(label) != 1 for label in wanted):
            return None
        mine = [known.index(label) for label in wanted]
        others = [place for place in range(len(factors)) if place not in mine]
        return [factor.size for factor in factors], mine, others

    def _row_labels(self, site: Site) -> list[int]:
        """Labels of the factors of the rows `l * P + p` of a site."""
        labels = self._labels[site.place]
        lead, _, trail = site.sizes
        before, after = _filling(site.shape, lead), _filling(site.shape[::-1], trail)
        axes = (*labels[:before], *labels[len(labels) - after :])
        return [factor.label for axis in axes for factor in axis if factor.size != 1]


def _filling(shape: tuple[int, ...], size: int) -> int:
    axes = 0
    while math.prod(shape[:axes]) < size:
        axes += 1
    return axes
