"""Which rows of a site belong together: the samples that the loss keeps apart, proven or probed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgraph.curvature.apart_rules import MIXED, Factor, Labels
from gradgraph.curvature.sites import Site

__all__ = ["Groups", "Product", "factors_of", "grouped", "probed", "weights_of"]

#: Rows times the Hessian of z, `[k, *z.shape]` each; None where that is zero.
Product = Callable[[Tensor], "Tensor | None"]


@dataclass(frozen=True)
class Groups:
    """The rows of a site, `l * P + p`, as factors, slowest first, and whether each one numbers samples.

    Attributes:
        factors: size, and whether the loss keeps its indices apart.
        how: how that is known.
    """

    factors: tuple[tuple[int, bool], ...]
    how: str

    @property
    def samples(self) -> int:
        """How many groups of rows the loss keeps apart."""
        return math.prod(size for size, apart in self.factors if apart)

    @property
    def each(self) -> int:
        """How many rows each group has."""
        return math.prod(size for size, apart in self.factors if not apart)

    def table(self, device: torch.device) -> Tensor:
        """Numbers of the rows by sample and place in it: `[samples, each]`."""
        sizes = [size for size, _ in self.factors]
        order = sorted(range(len(sizes)), key=lambda place: not self.factors[place][1])
        rows = torch.arange(math.prod(sizes), device=device).view(sizes)
        return rows.permute(order).reshape(self.samples, self.each)


def grouped(site: Site, labels: Labels | None) -> Groups:
    """The groups that `labels`, of z, prove."""
    found = tuple((factor.size, factor.label != MIXED) for factor in factors_of(site, labels))
    return Groups(found, "proven from operations and shapes" if any(apart for _, apart in found) else "")


def factors_of(site: Site, labels: Labels | None) -> list[Factor]:
    """The factors of the site's rows, slowest first, without those of size 1."""
    lead, units, trail = site.sizes
    axes = labels if labels is not None else tuple((Factor(size, MIXED),) for size in site.shape)
    before = _filling(site.shape, lead)
    after = _filling(site.shape[::-1], trail)
    assert math.prod(site.shape[before : len(site.shape) - after]) == units
    return [factor for axis in (*axes[:before], *axes[len(axes) - after :]) for factor in axis if factor.size != 1]


def _filling(shape: Sequence[int], size: int) -> int:
    """How many leading axes have `size` entries together: the fewest."""
    axes = 0
    while math.prod(shape[:axes]) < size:
        axes += 1
    return axes


def weights_of(samples: int, like: Tensor) -> Tensor:
    """Random weights to tell samples apart by, half of them 0: never all, and never none of several."""
    generator = torch.Generator(like.device).manual_seed(0)
    weights = torch.randn(samples, generator=generator, dtype=like.dtype, device=like.device)
    if samples > 1:
        weights[1:] *= torch.randint(0, 2, (samples - 1,), generator=generator, device=like.device)
        weights[-1] = 0
    return weights


def probed(site: Site, groups: Groups, product: Product, worth: Callable[[Groups, int], bool]) -> Groups:
    """`groups`, and what a probe finds to be apart as well.

    For each bit of an index, noise on the entries that have it must leave the others exactly zero when it is multiplied
    with the Hessian. Entries of the Hessian that are not zero would have to cancel to the last bit.

    Args:
        site: where.
        groups: what is proven.
        product: multiplies with the Hessian of z.
        worth: whether to spend so many rows, the second argument, on finding the groups that are the first.
    """
    factors = list(groups.factors)
    for place, (size, apart) in enumerate(factors):
        bits = (size - 1).bit_length()
        hoped = Groups((*factors[:place], (size, True), *factors[place + 1 :]), "")
        if apart or not worth(hoped, bits):
            continue
        if _is_apart(site, [one for one, _ in factors], place, bits, product):
            factors[place] = size, True
    if tuple(factors) == groups.factors:
        return groups
    return Groups(tuple(factors), f"{groups.how} and probed" if groups.how else "probed")


def _is_apart(site: Site, sizes: list[int], place: int, bits: int, product: Product) -> bool:
    lead, units, trail = site.sizes
    metadata = site.node._input_metadata[0]
    generator = torch.Generator(metadata.device).manual_seed(0)
    index = torch.arange(math.prod(sizes), device=metadata.device)
    index = index // math.prod(sizes[place + 1 :]) % sizes[place]
    shift = torch.arange(bits, device=metadata.device).unsqueeze(1)
    chosen = (index >> shift & 1).bool().view(bits, lead, 1, trail)
    noise = torch.randn((bits, lead, units, trail), generator=generator, device=metadata.device, dtype=metadata.dtype)
    found = product((noise * chosen).view(bits, *site.shape))
    if found is None:
        return True
    return not bool((found.reshape(noise.shape) * ~chosen).count_nonzero())
