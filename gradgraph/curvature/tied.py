"""A table that embeds words and, transposed, is the head that scores them: `z_e = w[words]`, `z_h = x_h w'`.

The head's own part of the diagonal is read as at any site. The embedding's, and what couples the two, by the equation
in `shared`, come from one pass for each one-hot (r, j) of z_e, row r of a sample and unit j, at all samples at once:

    2 sum over rows r of word v, rows q of r's sample, of x_h[q, j] H[(h, q, v), (e, r, j)] + g_h[q, v] x_h'[q, j],

g_h being the adjoint of z_h and x_h' the tangent of x_h.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gradgraph.curvature.apart_rules import Labels
from gradgraph.curvature.features import features
from gradgraph.curvature.readings import Readings
from gradgraph.curvature.shared import Shared
from gradgraph.curvature.sites import Place, Site, Use
from gradgraph.curvature.work import Piece

__all__ = ["Tied"]


class Tied(Shared):
    """The embedding and what couples it with the head.

    Args:
        embedding: the site of kind "embedding".
        head: that of kind "matrix", whose own part is not read here.
        fed: where x_h is.
    """

    def __init__(self, embedding: Site, head: Site, fed: Place) -> None:
        super().__init__([embedding, head], {1: fed})
        self._readings = Readings(embedding)

    def start(self, labels: Mapping[Place, Labels]) -> None:
        """Find the samples that both sites tell apart."""
        super().start(labels)
        self.weight = self.bias = None
        embedding, head = self.sites
        indices, padding = embedding.saved["indices"].reshape(-1), self._readings.padding
        self._words = indices[self.tables[0]]  # [samples, each]
        self._counted = ~padding[self.tables[0]]
        self._inputs = features(head)[:, :, 0, 0][:, self.tables[1]]  # [units, samples, each of the head]

    @property
    def alike(self) -> list[Site]:
        """None: the head takes the table transposed, and its part is read elsewhere."""
        return []

    @property
    def senders(self) -> list[int]:
        """The numbers of the sites at which tangents are sent: the embedding's alone."""
        return [0]

    @property
    def reason(self) -> str:
        """What was done, in words."""
        return f"table and head; {super().reason.partition('; ')[2]}"

    def read_curvature(self, number: int, piece: Piece, other: int, product: Tensor) -> None:  # noqa: ARG002 - 0
        """Take in the product with H, at the embedding or at the head."""
        self.curved = True
        count, each = piece.last - piece.first, piece.stop - piece.start
        site, table = self.sites[other], self.tables[other]
        if other == 0:
            unit = torch.arange(count, device=product.device)
            own = product.reshape(count, each, *site.sizes)[unit, :, :, unit + piece.first].flatten(2)
            self._readings.of_pairs(piece.first, piece.last, piece.start, own[:, :, table], table)
            return
        words = self._words[:, piece.start : piece.stop].t()  # [places, samples]
        place = torch.arange(each, device=product.device)[:, None, None]
        at_word = product.reshape(count, each, -1, site.sizes[1])[:, place, table, words[:, :, None]]
        self._add(piece, torch.einsum("otgq,ogq->otg", at_word, self._inputs[piece.first : piece.last]))

    def read_tangent(self, number: int, piece: Piece, other: int, adjoint: Tensor, tangent: Tensor) -> None:  # noqa: ARG002
        """Take in the tangents of x_h, `[piece.size, rows, units]`; `adjoint` is that of z_h."""
        self.curved = True
        count, each = piece.last - piece.first, piece.stop - piece.start
        units, words = self.sites[0].sizes[1], self.sites[1].sizes[1]
        unit = torch.arange(count, device=tangent.device)
        own = tangent.reshape(count, each, -1, units)[unit, :, :, unit + piece.first][:, :, self.tables[1]]
        scores = adjoint.reshape(-1, words)[self.tables[1]]  # [samples, each of the head, words]
        chosen = self._words[:, piece.start : piece.stop]
        at_word = scores.gather(2, chosen.unsqueeze(1).expand(-1, scores.shape[1], -1))  # [samples, head, places]
        self._add(piece, torch.einsum("otgq,gqt->otg", own, at_word))

    def _add(self, piece: Piece, found: Tensor) -> None:
        """Twice `[units, places, samples]`, by the words there."""
        table = self._readings.weight
        assert table is not None
        counted = self._counted[:, piece.start : piece.stop].t()
        words = self._words[:, piece.start : piece.stop].t()
        values = (2 * found * counted).flatten(1).t()
        table[:, piece.first : piece.last].index_add_(0, words.reshape(-1), values)

    def results(self) -> list[tuple[Use, Tensor]]:
        """The diagonal of the embedding's use, the head's own part apart."""
        return self._readings.results()
