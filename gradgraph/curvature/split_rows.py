"""Many directions in one pass, by vmap; one a pass where it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gradgraph.curvature.budget import chunk_for
from gradgraph.curvature.rows import one_hots
from gradgraph.curvature.split_adjoints import Place
from gradgraph.curvature.split_check import Check
from gradgraph.curvature.split_numbers import Numbers
from gradgraph.curvature.split_pass import SplitPass, inner
from gradgraph.errors import GradGraphError

__all__ = ["Pairing", "SplitRows", "wide_of"]


#: What is made of s and a tangent at a place.
Pairing: TypeAlias = Callable[[Place, Tensor, Tensor], Tensor]


#: How much more than one difference of noise another may be.
_NOISE = 16


class SplitRows:
    """Runs the second pass for many directions.

    Args:
        split: that pass, hooked.
        reset: to be called before each run of the engine.
        check: compares the sums of the parts with eᵀHe.

    Attributes:
        alone: why rows are computed one a pass; None while they are batched.
    """

    def __init__(self, split: SplitPass, reset: Callable[[], None], check: Check) -> None:
        self._split = split
        self._reset = reset
        self._compare = check
        self._checked = False
        self._pairing: Pairing | None = None
        self.alone: str | None = None

    def entries(self, name: str, gradient: Tensor, memory: int | None) -> Iterator[tuple[int, Numbers]]:
        """Along each entry of parameter `name`: the number of the first row, and the numbers of some."""
        chunk, _ = chunk_for(gradient, None, memory)
        start = 0
        while start < gradient.numel():
            count = min(chunk, gradient.numel() - start)
            yield start, self.along({name: one_hots(gradient, start, count)})
            start += count

    def along(self, directions: Mapping[Any, Tensor], pairing: Pairing | None = None) -> Numbers:
        """Along several directions, the rows of the tensors in `directions`; parts by sample where `pairing` says so.

        Raises:
            GradGraphError: the parts do not sum to eᵀHe.
        """
        self._pairing = pairing
        numbers = self.unchecked(directions)
        self._compare(directions, numbers, self.unchecked)
        return numbers

    def unchecked(self, directions: Mapping[Any, Tensor]) -> Numbers:
        """`along`, whatever the parts sum to."""
        count = len(next(iter(directions.values())))
        if self.alone is None and count > 1:
            try:
                return self._batched(directions)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self.alone = (str(error) or type(error).__name__).partition("\n")[0][:200]
        return self._one_by_one(directions, range(count))

    def _owners(self) -> list[int]:
        return [edge.owner for edge in self._split.edges]

    def _batched(self, directions: Mapping[Any, Tensor]) -> Numbers:
        self._reset()
        with warnings.catch_warnings():
            # Slower than it might be is no news to the user, who did not ask for vmap.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            totals, parts = torch.func.vmap(self._row, randomness="same")(dict(directions))
        numbers = Numbers(totals.detach(), parts.detach(), self._owners())
        if not self._checked:
            self._check(directions, numbers)
            self._checked = True
        return numbers

    def _check(self, directions: Mapping[Any, Tensor], numbers: Numbers) -> None:
        """A wrong batching rule need not raise: the largest row is computed alone, too."""
        sizes = numbers.parts.abs().sum(1)
        at = int(sizes.nan_to_num(posinf=0.0).argmax())
        alone = self._one_by_one(directions, [at])
        eps = max(torch.finfo(one.dtype).eps for one in directions.values())
        close = eps**0.5 * float(sizes[at])
        mine, own = numbers.parts[at], alone.parts[0]
        if numbers.owners == alone.owners:
            if not bool(_differ(mine, own, close).any()):
                return
            # Where nothing is left but rounding (see `Check`), that is too close: a little longer, it rounds otherwise.
            noise = 0.0
            for longer in (1 + factor * eps**0.5 for factor in (3, 5, 11)):
                again = self._one_by_one({name: one * longer for name, one in directions.items()}, [at]).parts[0]
                noise = max(noise, float((again / longer**2 - own).abs().nan_to_num(0.0, posinf=0.0).max()))
            if not bool(_differ(mine, own, close + _NOISE * noise).any()):
                return
        raise RuntimeError("vmap gave another row than a pass of its own")

    def _row(self, direction: dict[Any, Tensor]) -> tuple[Tensor, Tensor]:
        """eᵀHe, and its parts `[parts]`."""
        numbers, product = self._split.run(direction, self._pairing)
        zero = _wide(next(iter(direction.values())).flatten()[:0].sum())
        totals = [_wide(inner(product[name], e)).to(zero.device) for name, e in direction.items() if name in product]
        parts = [_wide(one).to(zero.device) for one in numbers]
        return torch.stack([zero, *totals]).sum(), torch.stack(parts) if parts else zero.new_zeros(0)

    def _one_by_one(self, directions: Mapping[Any, Tensor], rows: Sequence[int]) -> Numbers:
        totals, parts = [], []
        owners: list[int] | None = None
        for row in rows:
            self._reset()
            total, part = self._row({name: one[row] for name, one in directions.items()})
            if owners is not None and self._owners() != owners:
                raise GradGraphError("curvature got other parts in one pass than in the next: does a backward change?")
            owners = self._owners()
            totals.append(total)
            parts.append(part)
        return Numbers(torch.stack(totals), torch.stack(parts), owners or [])


def _differ(one: Tensor, other: Tensor, close: float) -> Tensor:
    return (one.isnan() != other.isnan()) | ((one - other).abs() > close)


def _wide(number: Tensor) -> Tensor:
    return number.to(wide_of(number))


def wide_of(tensor: Tensor) -> torch.dtype:
    """The widest dtype that the tensor's device has."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
