"""A basis of the range of a symmetric matrix, met by random vectors, and what every vector's absence does to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gradgraph.curvature.sharding import Share

__all__ = ["Sketch"]

_WIDE = 2**22  # numbers in one temporary


class Sketch:
    """An orthonormal basis Q of HΩ, the products HQ, and the estimate of diag(H) that they make (see `xdiag`).

    Vectors are rows here. With Y = HΩ = QB, leaving ω_i out takes one direction Q s_i from the range: the one whose s_i
    is orthogonal to all columns of B but the i-th. Where that column is a combination of the others there is none, and
    s_i = 0.

    Args:
        size: entries of a vector.
        share: this rank's. All ranks hold the whole sketch; each works out its part of the entries.
    """

    def __init__(self, size: int, share: Share) -> None:
        self._size = size
        self._share = share
        self._signs: list[Tensor] = []
        self._bases: list[Tensor] = []
        self._images: list[Tensor] = []
        self._coordinates = torch.zeros(0, 0, device="cpu")
        self._scale = 0.0

    @property
    def rank(self) -> int:
        """Directions in the basis."""
        return sum(len(basis) for basis in self._bases)

    @property
    def is_complete(self) -> bool:
        """Whether every direction has its product."""
        return bool(self._bases) and len(self._images) == len(self._bases)

    def extend(self, signs: Tensor, received: Tensor) -> None:
        """Take in vectors `signs`, int8 `[k, size]`, and their products `received`, finite, of the same shape."""
        self._scale = max(self._scale, float(torch.linalg.vector_norm(received, dim=1).max()))
        fresh = self._orthonormal(self._outside(received))
        if len(fresh):
            # Where little is left outside, its rounding points inside: once more.
            fresh = torch.linalg.qr(self._outside(fresh).T).Q.T.contiguous()
        self._share.first_([fresh])  # no two machines need agree on a basis, but the ranks must
        bases = [*self._bases, fresh] if len(fresh) else self._bases
        new = torch.cat([basis @ received.T for basis in bases]) if bases else received.new_zeros(0, len(received))
        old = received.new_zeros(len(new), sum(map(len, self._signs)))
        old[: len(self._coordinates)] = self._coordinates
        self._coordinates = torch.cat([old, new], dim=1)
        self._signs.append(signs)
        self._bases = bases

    def complete(self, products_of: Callable[[Tensor], Tensor]) -> bool:
        """Fetch the products of the directions that have none yet; False where one is not finite."""
        for basis in self._bases[len(self._images) :]:
            image = products_of(basis)
            if not image.isfinite().all():
                return False
            self._images.append(image)
        return True

    def variance_left(self) -> Tensor:
        """The summed variance of ω_i ⊙ (I − P_i) H ω_i: what one vector's estimate has once H is seen through P_i."""
        directions, heights = self._dropped()
        count = directions.shape[1]
        mean = torch.zeros((), dtype=directions.dtype, device=directions.device)
        for start, stop in self._slices():
            rest = self._part(self._signs, start, stop) * (directions.T @ self._part(self._bases, start, stop))
            mean += (rest * heights[:, None]).mean(0).square().sum()
        self._share.sum_([mean])
        return (heights.square().sum() - count * mean) / (count - 1)

    def estimate(self) -> tuple[Tensor, Tensor]:
        """The mean of the leave-one-out estimates and its standard error, `[size]` each."""
        directions, heights = self._dropped()
        count = directions.shape[1]
        inner, along = self._inner(count)
        kept = along - directions * (directions * along).sum(0)  # P_i ω_i in the basis
        within = inner @ kept
        turned = inner @ directions
        bends = (directions * turned).sum(0)[:, None]
        back = heights - (directions * within).sum(0)
        found = torch.zeros(2, self._size, dtype=directions.dtype, device=directions.device)
        for start, stop in self._slices():
            basis, image = self._part(self._bases, start, stop), self._part(self._images, start, stop)
            dropped = directions.T @ basis
            # The diagonals of P_i H and P_i H P_i; then (I − P_i) H ω_i − (I − P_i) H P_i ω_i.
            left = (basis * image).sum(0) - dropped * (directions.T @ image)
            both = ((inner @ basis) * basis).sum(0) - dropped * (2 * (turned.T @ basis) - bends * dropped)
            rest = back[:, None] * dropped - kept.T @ image + within.T @ basis
            each = 2 * left - both + self._part(self._signs, start, stop) * rest
            found[0, start:stop] = each.mean(0)
            found[1, start:stop] = each.std(0) / count**0.5
        self._share.sum_([found])
        return found[0], found[1]

    def _outside(self, vectors: Tensor) -> Tensor:
        """What of `vectors` is orthogonal to the basis."""
        for basis in self._bases:
            vectors = vectors - (vectors @ basis.T) @ basis
        return vectors

    def _orthonormal(self, vectors: Tensor) -> Tensor:
        """Orthonormal rows that span `vectors` but for what rounding made of it."""
        q, r = torch.linalg.qr(vectors.T)
        turn, sizes, _ = torch.linalg.svd(r, full_matrices=False)
        least = 100 * torch.finfo(vectors.dtype).eps * self._scale
        kept = int(self._share.first(float((sizes > least).sum())))
        basis: Tensor = q if kept == q.shape[1] else q @ turn[:, :kept]
        return basis.T.contiguous()

    def _dropped(self) -> tuple[Tensor, Tensor]:
        """The directions s_i `[rank, vectors]`, zeros where there is none, and the heights s_iᵀ Qᵀ H ω_i."""
        turn, sizes, weights = torch.linalg.svd(self._coordinates, full_matrices=False)
        scaled = turn @ (weights / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)[:, None])
        directions = torch.nn.functional.normalize(scaled, dim=0)
        # The leverage of vector i is 1 where no others make up for it.
        needed = weights.square().sum(0) > 1 - torch.finfo(sizes.dtype).eps ** 0.5
        directions = torch.where(needed, directions, 0.0)
        return directions, (directions * self._coordinates).sum(0)

    def _inner(self, count: int) -> tuple[Tensor, Tensor]:
        """Qᵀ H Q and Qᵀ Ω."""
        rank, like = self.rank, self._coordinates
        inner, along = like.new_zeros(rank, rank), like.new_zeros(rank, count)
        for start, stop in self._slices():
            basis = self._part(self._bases, start, stop)
            inner += basis @ self._part(self._images, start, stop).T
            along += basis @ self._part(self._signs, start, stop).to(like.dtype).T
        self._share.sum_([inner, along])
        return (inner + inner.T) / 2, along

    def _slices(self) -> Iterator[tuple[int, int]]:
        """This rank's entries, few enough at once."""
        first, last = self._share.slice(self._size)
        width = max(1, _WIDE // max(1, self._coordinates.shape[1]))
        for start in range(first, last, width):
            yield start, min(start + width, last)

    def _part(self, blocks: list[Tensor], start: int, stop: int) -> Tensor:
        """Entries `start` to `stop` of all rows in `blocks`."""
        if not blocks:
            return self._coordinates.new_zeros(0, stop - start)
        return torch.cat([block[:, start:stop] for block in blocks])
