"""A large matrix made small enough to look at, none of its peaks lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Matrix", "cells_of", "largest_block", "pooled", "starts_of"]

Matrix = NDArray[np.float64]


def cells_of(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    """How many cells a side each parameter gets, one at least: its entries, or its part of `most`."""
    total = sum(sizes.values())
    if total <= most:
        return dict(sizes)
    return {name: max(1, round(size * most / total)) if size else 0 for name, size in sizes.items()}


def pooled(block: Matrix, rows: int, columns: int) -> Matrix:
    """`block` in `rows` by `columns` cells: of each its entry of largest magnitude, NaN if one is not finite."""
    starts = [np.arange(cells) * size // cells for cells, size in zip((rows, columns), block.shape, strict=True)]
    bad = ~np.isfinite(block)
    finite = np.where(bad, 0.0, block)
    high, low, marked = finite, finite, bad
    for axis, start in enumerate(starts):
        if len(start) < block.shape[axis]:
            high = np.maximum.reduceat(high, start, axis=axis)
            low = np.minimum.reduceat(low, start, axis=axis)
            marked = np.logical_or.reduceat(marked, start, axis=axis)
    result: Matrix = np.where(marked, np.nan, np.where(high >= -low, high, low))
    return result


def largest_block(sizes: Mapping[str, int], cells: Mapping[str, int]) -> int:
    """The most entries a side that one cell stands for."""
    return max((-(-sizes[name] // count) for name, count in cells.items() if count), default=1)


def starts_of(cells: Sequence[int]) -> list[int]:
    """Where each of the blocks begins, and where the last one ends."""
    return [0, *np.cumsum(cells).tolist()]
