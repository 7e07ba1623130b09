"""Tangents on their way through a chain: compact while each has one unit alone, products behind a linear layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gradgraph.curvature.apart_rules import Shape
from gradgraph.curvature.sites import Place

__all__ = ["CUT", "Block"]

#: Stands in the sums of a block for all operations behind the cut.
CUT: Place = (-1, 0)


@dataclass(eq=False)
class Block:
    """Tangents, and what operations have contributed to each one so far.

    Attributes:
        value: `[O, r, L, P]` compact, unit o of which is unit `first + o` of the site; else `[O, r, *shape]`.
        shape: of the tensor that the tangents are of.
        units: how many units the tensor has where compact; 0 where not.
        first: the first of the units.
        rows: how many rows of the site are samples of their own; 1 where samples are not told apart.
        sums: what the operation at each place contributes: `[O, r, rows]`.
        fan: `[O, K]`, where the tangents are products: `value[o, r, l] * fan[o, k] * scale[l, k]` at `[l, k]`.
        scale: `[L, K]`, or None for ones.
    """

    value: Tensor
    shape: Shape
    units: int
    first: int
    rows: int
    sums: dict[Place, Tensor] = field(default_factory=dict)
    fan: Tensor | None = None
    scale: Tensor | None = None

    def add(self, place: Place, products: Tensor) -> None:
        """Note what the operation at `place` contributes: by entry, of `value`'s shape."""
        self.sums[place] = products.reshape(*self.value.shape[:2], self.rows, -1).sum(-1)

    def bend(self, place: Place, bend: Tensor | None) -> None:
        """Note what an operation by entry contributes whose second derivatives, times its adjoint, are `bend`."""
        if bend is None:
            return
        if self.fan is None:
            self.add(place, self.value.square() * (self.by_unit(bend) if self.units else bend))
            return
        bend = bend.reshape(self.value.shape[2], -1)
        if self.scale is not None:
            bend = bend * self.scale.square()
        self.add(place, self.value.square() * (self.fan.square() @ bend.t())[:, None, :, None])

    def scaled(self, slope: Tensor, shape: Shape) -> Block:
        """The block behind an operation by entry."""
        if self.fan is None:
            return self.moved(self.value * (self.by_unit(slope) if self.units else slope), shape, self.units)
        slope = slope.reshape(self.value.shape[2], -1)
        return replace(self, shape=shape, scale=slope if self.scale is None else self.scale * slope)

    def moved(self, value: Tensor, shape: Shape, units: int) -> Block:
        """The block one operation further."""
        return Block(value, shape, units, self.first, self.rows, self.sums)

    def multiplied(self) -> Block:
        """The same tangents, not as products."""
        if self.fan is None:
            return self
        value = self.value * self.fan[:, None, None]
        return self.moved((value if self.scale is None else value.mul_(self.scale)).flatten(2), self.shape, 0)

    def spread(self) -> Tensor:
        """The tangents as `[O * r, *shape]`."""
        count, each = self.value.shape[:2]
        if not self.units:
            return self.value.reshape(count * each, *self.shape)
        lead, trail = self.value.shape[2:]
        whole = self.value.new_zeros(count, each, lead, self.units, trail)
        unit = torch.arange(count, device=whole.device)
        # Advanced indices that stand apart come first: [O, r, L, P] again.
        whole[unit, :, :, unit + self.first] = self.value
        return whole.view(count * each, *self.shape)

    def own(self, product: Tensor) -> Tensor:
        """Of a tensor `[O * r, *shape]` what belongs to the entries of `value`."""
        if not self.units:
            return product.reshape(self.value.shape)
        count, each, lead, trail = self.value.shape
        unit = torch.arange(count, device=product.device)
        return product.reshape(count, each, lead, self.units, trail)[unit, :, :, unit + self.first]

    def by_unit(self, tensor: Tensor) -> Tensor:
        """A tensor of `shape` as what compact tangents are multiplied with: `[O, 1, L, P]`."""
        lead, trail = self.value.shape[2:]
        mine = tensor.reshape(lead, self.units, trail)[:, self.first : self.first + len(self.value)]
        return mine.transpose(0, 1).unsqueeze(1)
