"""How one site's part of the diagonal is computed: which tangents are sent, and what is read off them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from gradgraph.curvature.chains import Chain
from gradgraph.curvature.features import count_of
from gradgraph.curvature.groups import Groups, weights_of
from gradgraph.curvature.readings import Readings
from gradgraph.curvature.sites import Site, Use
from gradgraph.curvature.tangents import CUT, Block

__all__ = ["Piece", "Way", "Work", "pieces_of"]

#: "rows": a one-hot tangent for each unit, at all rows at once, each of which is a sample of its own. "pairs": one for
#: each unit and row of a sample, at all samples at once. "entries": the tangent of each single entry.
Way = Literal["rows", "pairs", "entries"]


@dataclass(frozen=True)
class Piece:
    """Tangents of the units `first` to `last`; of each of them those numbered `start` to `stop`."""

    first: int
    last: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many tangents they are."""
        return (self.last - self.first) * (self.stop - self.start)


def pieces_of(each: int, first: int, last: int, most: int) -> Iterator[Piece]:
    """The tangents of the units from `first` to `last`, `each` of a unit, at most `most` in a piece."""
    units, step = max(1, most // each), min(each, most)
    for unit in range(first, last, units):
        for start in range(0, each, step):
            yield Piece(unit, min(unit + units, last), start, min(start + step, each))


class Work:
    """One site, the way to take and what has been read so far.

    Attributes:
        site: where.
        groups: which rows are samples.
        chain: what the tangents are carried through.
        way: which tangents.
        passes: engine passes so far.
        chunk: most tangents in one.
        curved: whether anything depended on what enters.
        seconds: spent so far.
        note: what else there is to say.
    """

    def __init__(self, site: Site, groups: Groups, chain: Chain, way: Way) -> None:
        self.site = site
        self.groups = groups
        self.chain = chain
        self.way = way
        self.passes = self.chunk = 0
        self.curved = False
        self.seconds = 0.0
        self.note = ""
        self._readings = Readings(site)
        self._table: Tensor | None = None

    @property
    def reason(self) -> str:
        """What was done, in words."""
        samples, each, steps = self.groups.samples, self.groups.each, len(self.chain.steps)
        if self.way == "entries":
            said = "a tangent for each entry"
        elif self.way == "rows":
            said = f"a tangent for each unit, at all {samples} samples at once ({self.groups.how})"
        elif samples > 1:
            said = f"a tangent for each unit and row of a sample, at all {samples} samples ({each} rows each) at once"
            said += f" ({self.groups.how})"
        else:
            said = "a tangent for each unit and row"
        said += f", carried through {steps} operation{'s' * (steps > 1)}" if steps else ""
        return f"{said}; {self.note}" if self.note else said

    @property
    def each(self) -> int:
        """Tangents of one unit."""
        if self.way == "rows":
            return 1
        if self.way == "pairs":
            return self.groups.each
        return count_of(self.site) + (self.site.bias is not None)

    def pieces(self, first: int, last: int, most: int) -> Iterator[Piece]:
        """All tangents of the units from `first` to `last`, at most `most` in a piece."""
        return pieces_of(self.each, first, last, most)

    def block(self, piece: Piece) -> Block:
        """The tangents of `piece` at the cut."""
        lead, units, trail = self.site.sizes
        count, each = piece.last - piece.first, piece.stop - piece.start
        if self.way == "rows":
            one = torch.ones((), dtype=self._like.dtype, device=self._like.device)
            value = one.expand(count, 1, lead, trail)
        elif self.way == "pairs":
            value = self._like.new_zeros(count, each, lead * trail)
            for place in range(each):
                value[:, place, self.table[:, piece.start + place]] = 1
            value = value.view(count, each, lead, trail)
        else:
            value = self._readings.tangents(piece.first, piece.last, piece.start, piece.stop)
        rows = lead * trail if self.way == "rows" else 1
        return self.chain.carry(Block(value, self.site.shape, units, piece.first, rows))

    def told_apart(self, block: Block) -> tuple[object, ...]:
        """What `weights` depends on."""
        if self.way == "entries" or self.groups.samples == 1:
            return ()
        lead, _, trail = self.site.sizes
        return self.groups.factors, lead, trail, 0 if trail == 1 else block.units

    def weights(self, block: Block) -> Tensor | None:
        """Random weights of the samples, half of them 0, for the tensor at the cut; None where not told apart."""
        if self.way == "entries" or self.groups.samples == 1:
            return None
        half = weights_of(self.groups.samples, self._like)
        lead, units, trail = self.site.sizes
        by_row = half
        if self.groups.each > 1:
            by_row = half.new_empty(lead * trail)
            by_row[self.table.reshape(-1)] = half.repeat_interleave(self.groups.each)
        if block.units:
            return by_row.view(lead, 1, trail).expand(lead, units, trail).reshape(block.shape)
        return by_row.view(lead, 1).expand(lead, math.prod(block.shape) // lead).reshape(block.shape)

    def read(self, piece: Piece, block: Block, product: Tensor | None) -> None:
        """Take in what the Hessian at the cut makes of the tangents there, `[piece.size, *shape]`; None for zero."""
        self.curved |= product is not None or bool(block.sums)
        if self.way == "pairs":
            if product is not None:
                found = block.own(product).flatten(2)[:, :, self.table]
                self._readings.of_pairs(piece.first, piece.last, piece.start, found, self.table)
            return
        if product is not None:
            block.add(CUT, block.value * block.own(product))
        if not block.sums:
            return
        total = reduce(torch.add, block.sums.values())
        if self.way == "rows":
            self._readings.of_rows(piece.first, piece.last, total[:, 0])
        else:
            self._readings.of_entries(piece.first, piece.last, piece.start, piece.stop, total[..., 0])

    def results(self) -> list[tuple[Use, Tensor]]:
        """The diagonal of each use, in its shape."""
        return self._readings.results()

    @property
    def table(self) -> Tensor:
        """Numbers of the rows by sample and place in it."""
        if self._table is None:
            self._table = self.groups.table(self._like.device)
        return self._table

    @property
    def _like(self) -> Tensor:
        return self._readings.like
