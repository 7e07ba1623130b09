"""What the diagonal of a site's parameters is, given the Hessian along the tangents that were sent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradgraph.curvature.features import count_of, features, placed
from gradgraph.curvature.sites import Site, Use

__all__ = ["Readings"]


class Readings:
    """The diagonal of one site's parameters, while it is gathered.

    Attributes:
        weight: `[O, F]`, of an embedding `[V, O]`; None where the site has none.
        bias: `[O]`; None where the site has none.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._features: Tensor | None = None
        units = site.sizes[1]
        metadata = site.node._input_metadata[0]
        like = torch.empty(0, dtype=metadata.dtype, device=metadata.device)
        self.bias = None if site.bias is None else like.new_zeros(units)
        self.weight: Tensor | None = None
        if site.weight is not None:
            embeds = site.kind == "embedding"
            self.weight = like.new_zeros(site.weight.shape if embeds else (units, count_of(site)))

    def tangents(self, first: int, last: int, start: int, stop: int) -> Tensor:
        """Compact ones of the entries `start` to `stop`, the bias after the weights, of the units `first` to `last`."""
        lead, _, trail = self._site.sizes
        count = 0 if self.weight is None else self.weight.shape[1]
        parts = []
        if start < count:
            some = self.features[start : min(stop, count)]
            groups = some.shape[2]
            units = torch.arange(first, last, device=some.device) * groups // self._site.sizes[1]
            parts.append(some[:, :, :1] if groups == 1 else some[:, :, units])
        if stop > count:
            one = torch.ones((), dtype=self.like.dtype, device=self.like.device)
            parts.append(one.expand(1, lead, parts[0].shape[2] if parts else 1, trail))
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        return value.permute(2, 0, 1, 3).expand(last - first, -1, -1, -1)

    def of_entries(self, first: int, last: int, start: int, stop: int, found: Tensor) -> None:
        """`[units, entries]`: the Hessian along the tangents of single entries, which is the diagonal itself."""
        count = 0 if self.weight is None else self.weight.shape[1]
        if self.weight is not None and start < count:
            self.weight[first:last, start : min(stop, count)] = found[:, : min(stop, count) - start]
        if self.bias is not None and stop > count:
            self.bias[first:last] = found[:, -1]

    def of_rows(self, first: int, last: int, found: Tensor) -> None:
        """`[units, rows]`: the Hessian of z along each single entry, rows being samples of their own."""
        if self.bias is not None:
            self.bias[first:last] += found.sum(1)
        if self.weight is None:
            return
        if self._site.kind == "embedding":
            found = found.masked_fill(self.padding, 0)
            self.weight[:, first:last].index_add_(0, self._indices, found.t())
            return
        squares = self._of_units(first, last).square()
        if squares.shape[0] == 1:
            self.weight[first:last] += found @ squares[0].t()
        else:
            self.weight[first:last] += torch.einsum("ofr,or->of", squares, found)

    def of_pairs(self, first: int, last: int, start: int, found: Tensor, table: Tensor) -> None:
        """`[units, places, samples, each]`: the Hessian of z between a place of a sample, from `start` on, and each."""
        if self.bias is not None:
            self.bias[first:last] += found.sum((1, 2, 3))
        if self.weight is None:
            return
        if self._site.kind == "embedding":
            self._of_words(first, last, start, found, table)
            return
        data = self._of_units(first, last)[:, :, table]  # [units or 1, F, samples, each]
        for place, one in enumerate(found.unbind(1), start):
            if data.shape[0] == 1:
                both = torch.bmm(one.transpose(0, 1), data[0].permute(1, 2, 0))  # [samples, units, F]
                self.weight[first:last] += (both * data[0, :, :, place].t().unsqueeze(1)).sum(0)
            else:
                self.weight[first:last] += torch.einsum("ofgu,ogu,ofg->of", data, one, data[..., place])

    def _of_words(self, first: int, last: int, start: int, found: Tensor, table: Tensor) -> None:
        assert self.weight is not None
        words, padding = self._indices[table], self.padding[table]
        for place, one in enumerate(found.unbind(1), start):
            same = (words[:, place, None] == words) & ~padding
            self.weight[:, first:last].index_add_(0, words[:, place], (one * same).sum(2).t())

    def results(self) -> list[tuple[Use, Tensor]]:
        """The diagonal of each use, in its shape."""
        site = self._site
        found = []
        if site.weight is not None and self.weight is not None:
            embeds = site.kind == "embedding"
            found.append((site.weight, self.weight if embeds else placed(site, self.weight)))
        if site.bias is not None and self.bias is not None:
            found.append((site.bias, self.bias.reshape(site.bias.shape)))
        return found

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and the device."""
        found = self.bias if self.weight is None else self.weight
        assert found is not None
        return found

    @property
    def features(self) -> Tensor:
        """What the weight is multiplied with; see `features`."""
        if self._features is None:
            self._features = features(self._site)
        return self._features

    def _of_units(self, first: int, last: int) -> Tensor:
        """`[units, F, rows]`; `[1, F, rows]` where all units have the same."""
        data = self.features
        groups = data.shape[2]
        if groups > 1:
            data = data[:, :, torch.arange(first, last, device=data.device) * groups // self._site.sizes[1]]
        return data.permute(2, 0, 1, 3).flatten(2)

    @property
    def _indices(self) -> Tensor:
        return self._site.saved["indices"].reshape(-1)

    @property
    def padding(self) -> Tensor:
        """Which rows of an embedding are of the word that stays as it is."""
        node: Any = self._site.node
        padding = node._saved_padding_idx
        # -1, none at all, shows as 2^64 - 1.
        found: Tensor = self._indices == (padding - 2**64 if padding >= 2**63 else padding)
        return found
