"""The numbers that the second pass gives along some directions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gradgraph.curvature.split_result import added

__all__ = ["Numbers"]


class Numbers:
    """What some directions gave.

    Attributes:
        totals: eᵀHe of each, `[rows]`.
        parts: what makes them up, `[rows, parts]`.
        detail: the same, `[rows, parts, samples]` where parts are told apart by sample.
        owners: the node that each part comes from.
    """

    def __init__(self, totals: Tensor, parts: Tensor, owners: Sequence[int]) -> None:
        self.totals = totals
        self.detail = parts
        self.parts = parts if parts.dim() == 2 else parts.sum(2)
        self.owners = list(owners)

    def summed(self) -> dict[int, float]:
        """What each node adds to all directions together."""
        found: dict[int, list[float]] = {}
        for owner, value in zip(self.owners, self.parts.sum(0).tolist(), strict=True):
            found.setdefault(owner, []).append(value)
        return {owner: added(values) for owner, values in found.items()}

    def by_node(self) -> dict[int, Tensor]:
        """What each node adds to each direction, `[rows]`, or to each sample of it, `[rows, samples]`."""
        found: dict[int, Tensor] = {}
        for owner, part in zip(self.owners, self.detail.unbind(1), strict=True):
            found[owner] = found[owner] + part if owner in found else part
        return found

    def error(self) -> Tensor:
        """By how much the parts do not sum to the totals, `[rows]`."""
        return self.totals - self.parts.sum(1)

    def off(self) -> Tensor:
        """The modulus of that, relative to the moduli of what is added, `[rows]`; 0 where one is not finite."""
        scale = self.parts.abs().sum(1) + self.totals.abs()
        return (self.error().abs() / scale).nan_to_num(0.0, posinf=0.0)
