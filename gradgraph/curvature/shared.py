"""One parameter at several sites: a weight that is applied at each step, or to each of several inputs.

Perturb each site's z by a δ of its own. Along a direction w' of the weight δ_s = w' x_s, and x_s itself may depend on
the weight, through other sites. So

    d²loss / dw² = sum over sites s, t of δ_s H[s, t] δ_t + 2 sum over t of <adjoint of z_t, w' x'_t>,

H being the Hessian by all the δ together and x'_t the tangent of x_t. Both come from one pass for each one-hot δ_s: the
product with H arrives where z_t is, the tangent where the adjoint of x_t is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradgraph.curvature.apart_rules import MIXED, Labels
from gradgraph.curvature.features import count_of, features, placed
from gradgraph.curvature.groups import factors_of
from gradgraph.curvature.sites import Place, Site, Use
from gradgraph.curvature.work import Piece, pieces_of

__all__ = ["Shared"]


@dataclass
class Shared:
    """The sites that one weight, one bias or both have in common.

    Attributes:
        sites: where they enter.
        fed: by the number of a site, the place of its x, where that depends on what enters.
        tables: of each site the numbers of its rows, by sample and place in it, `[samples, each]`; the samples are
            those that all sites tell apart.
        weight: `[O, F]`, what has been read so far; None where no weight is shared.
        bias: `[O]`; None where no bias is shared.
        curved: whether anything depended on what enters.
        passes: engine passes so far.
        chunk: most tangents in one.
        seconds: spent so far.
    """

    sites: list[Site]
    fed: dict[int, Place]
    tables: list[Tensor] = field(default_factory=list)
    weight: Tensor | None = None
    bias: Tensor | None = None
    curved: bool = False
    passes: int = 0
    chunk: int = 0
    seconds: float = 0.0
    _features: dict[int, Tensor] = field(default_factory=dict)

    def start(self, labels: Mapping[Place, Labels]) -> None:
        """Find the samples that all sites tell apart, and make room for the results."""
        every = [factors_of(site, labels.get(site.place)) for site in self.sites]
        common = set.intersection(*({one.label for one in factors} for factors in every)) - {MIXED}
        site = self.sites[0]
        metadata = site.node._input_metadata[0]
        bias = torch.zeros(site.sizes[1], dtype=metadata.dtype, device=metadata.device)
        for factors in every:
            kept = [one.label if one.label in common else MIXED for one in factors]
            # By label first, the same order everywhere; what is mixed after that.
            order = sorted(range(len(kept)), key=[label or math.inf for label in kept].__getitem__)
            sizes = [one.size for one in factors]
            rows = torch.arange(math.prod(sizes), device=bias.device).view(sizes).permute(order)
            samples = math.prod(size for size, label in zip(sizes, kept, strict=True) if label != MIXED)
            self.tables.append(rows.reshape(samples, -1))
        self.bias = None if site.bias is None else bias
        self.weight = None if site.weight is None else bias.new_zeros(site.sizes[1], count_of(site))

    @property
    def uses(self) -> list[Use]:
        """What enters at the first site."""
        return self.sites[0].uses

    @property
    def alike(self) -> list[Site]:
        """The sites besides the first that take what it takes in the same shape."""
        return self.sites[1:]

    @property
    def senders(self) -> list[int]:
        """The numbers of the sites at which tangents are sent."""
        return list(range(len(self.sites)))

    @property
    def tangents(self) -> int:
        """How many are to be sent."""
        return sum(self.sites[number].sizes[1] * self.tables[number].shape[1] for number in self.senders)

    @property
    def samples(self) -> int:
        """How many are told apart."""
        return len(self.tables[0])

    @property
    def entries(self) -> int:
        """How many rows of the Hessian would have to be computed instead."""
        return sum(math.prod(use.shape) for use in self.uses)

    @property
    def reason(self) -> str:
        """What was done, in words."""
        if self.samples == 1:
            return f"at {len(self.sites)} places; a tangent for each unit and row"
        said = f"at {len(self.sites)} places; a tangent for each unit and row of a sample"
        return f"{said}, at all {self.samples} samples at once (proven from operations and shapes)"

    def pieces(self, number: int, first: int, last: int, most: int) -> Iterator[Piece]:
        """The tangents of the units from `first` to `last` at site `number`, at most `most` in a piece."""
        return pieces_of(self.tables[number].shape[1], first, last, most)

    def vectors(self, number: int, piece: Piece) -> Tensor:
        """One-hot tangents of z at site `number`, at all samples: `[piece.size, *shape]`."""
        site, table = self.sites[number], self.tables[number]
        lead, units, trail = site.sizes
        count, each = piece.last - piece.first, piece.stop - piece.start
        metadata = site.node._input_metadata[0]
        rows = torch.zeros(count, each, lead * trail, dtype=metadata.dtype, device=metadata.device)
        for place in range(each):
            rows[:, place, table[:, piece.start + place]] = 1
        whole = rows.new_zeros(count, each, lead, units, trail)
        unit = torch.arange(count, device=rows.device)
        whole[unit, :, :, unit + piece.first] = rows.view(count, each, lead, trail)
        return whole.view(piece.size, *site.shape)

    def weights(self, number: int, half: Tensor, shape: torch.Size) -> Tensor:
        """The samples' weights, `half`, at the rows of site `number`, for a tensor of `shape`: z or x."""
        lead, _, trail = self.sites[number].sizes
        by_row = half.new_empty(lead * trail)
        by_row[self.tables[number].reshape(-1)] = half.repeat_interleave(self.tables[number].shape[1])
        return by_row.view(lead, 1, trail).expand(lead, math.prod(shape) // (lead * trail), trail).reshape(shape)

    def read_curvature(self, number: int, piece: Piece, other: int, product: Tensor) -> None:
        """Take in the product with H at site `other`: `[piece.size, *shape]`."""
        self.curved = True
        site, table = self.sites[other], self.tables[other]
        count, each = piece.last - piece.first, piece.stop - piece.start
        unit = torch.arange(count, device=product.device)
        own = product.reshape(count, each, *site.sizes)[unit, :, :, unit + piece.first]
        found = own.flatten(2)[:, :, table]  # [units, places, samples, each]
        if self.bias is not None:
            self.bias[piece.first : piece.last] += found.sum((1, 2, 3))
        if self.weight is None:
            return
        here, there = self._data(number, piece), self._data(other, piece)
        for place, one in enumerate(found.unbind(1), piece.start):
            if here.shape[0] == 1:
                met = torch.bmm(one.transpose(0, 1), there[0].permute(1, 2, 0))  # [samples, units, F]
                self.weight[piece.first : piece.last] += (met * here[0, :, :, place].t().unsqueeze(1)).sum(0)
            else:
                self.weight[piece.first : piece.last] += torch.einsum("ofgu,ogu,ofg->of", there, one, here[..., place])

    def read_tangent(self, number: int, piece: Piece, other: int, adjoint: Tensor, tangent: Tensor) -> None:
        """Take in the tangents of x at site `other`, `[piece.size, rows, F]`; `adjoint` is that of z there."""
        if self.weight is None:
            return
        self.curved = True
        table = self.tables[other]
        count, each = piece.last - piece.first, piece.stop - piece.start
        moved = tangent.reshape(count, each, -1, self.weight.shape[1])[:, :, table]  # [units, places, samples, each, F]
        weights = adjoint.reshape(-1, self.sites[other].sizes[1])[table][..., piece.first : piece.last]
        met = torch.einsum("guo,otguf->otgf", weights, moved)
        here = self._data(number, piece)[0, :, :, piece.start : piece.stop]  # [F, samples, places]
        self.weight[piece.first : piece.last] += 2 * torch.einsum("otgf,fgt->of", met, here)

    def results(self) -> list[tuple[Use, Tensor]]:
        """The diagonal of each use at the first site, in its shape."""
        site = self.sites[0]
        found = []
        if site.weight is not None and self.weight is not None:
            found.append((site.weight, placed(site, self.weight)))
        if site.bias is not None and self.bias is not None:
            found.append((site.bias, self.bias.reshape(site.bias.shape)))
        return found

    def _data(self, number: int, piece: Piece) -> Tensor:
        """What the weights of the units are multiplied with, `[units, F, samples, each]`; `[1, ...]` where alike."""
        site = self.sites[number]
        if number not in self._features:
            self._features[number] = features(site)
        data = self._features[number]
        if data.shape[2] > 1:
            units = torch.arange(piece.first, piece.last, device=data.device)
            data = data[:, :, units * data.shape[2] // site.sizes[1]]
        return data.permute(2, 0, 1, 3).flatten(2)[:, :, self.tables[number]]
