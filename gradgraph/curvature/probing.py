"""What estimators share: random signs by number, running means and errors, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgraph.curvature.sharding import Share
from gradgraph.measure import norm

__all__ = ["Estimate", "Moments", "Signs", "batches", "is_enough"]

_LEAST = 16


@dataclass
class Estimate:
    """An estimated diagonal.

    Attributes:
        values: `[size]`.
        stderr: `[size]`: the standard error of each value.
        exact: whether they are not estimated at all.
        reason: what was done and why it stopped, in words.
    """

    values: Tensor
    stderr: Tensor
    exact: bool
    reason: str


class Signs:
    """Rademacher vectors by number: +1 or -1, each with probability 1/2, independent of each other.

    Vector k depends on `seed` and k alone: not on what was drawn before, nor on the device. So chunks and ranks may
    divide them as they like.
    """

    def __init__(self, size: int, seed: int, device: torch.device) -> None:
        self.size = size
        self._seed = seed
        self._device = device

    def __call__(self, start: int, stop: int) -> Tensor:
        """Vectors `start` to `stop` as rows, int8."""
        drawn = torch.empty(stop - start, self.size, dtype=torch.int8, device="cpu")
        for row, number in zip(drawn, range(start, stop), strict=True):
            generator = torch.Generator().manual_seed((self._seed + number) % 2**32)
            torch.randint(0, 2, (self.size,), generator=generator, dtype=torch.int8, device="cpu", out=row)
        return drawn.mul_(2).sub_(1).to(self._device)


class Moments:
    """Mean and spread of vectors that come in batches: Chan, Golub and LeVeque's update, which does not cancel."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(size, dtype=dtype, device=device)
        self._spread = torch.zeros(size, dtype=dtype, device=device)

    def add(self, samples: Tensor) -> None:
        """Take the rows of `samples` in."""
        mean = samples.mean(0)
        spread = (samples - mean).square_().sum(0)
        total = self.count + len(samples)
        step = mean - self.mean
        self._spread += spread + step.square() * (self.count * len(samples) / total)
        self.mean += step * (len(samples) / total)
        self.count = total

    def over(self, share: Share) -> Moments:
        """Those of all ranks' vectors together; nothing where `share` is single, or where they are there already."""
        if share.is_single:
            return self
        whole = Moments(len(self.mean), self.mean.dtype, self.mean.device)
        count = torch.tensor([float(self.count)], dtype=torch.float64, device="cpu")
        weighted = self.mean * self.count
        share.sum_([count, weighted])
        whole.count = int(count)
        whole.mean = weighted / whole.count
        whole._spread = self._spread + (self.mean - whole.mean).square() * self.count
        share.sum_([whole._spread])
        return whole

    @property
    def variance(self) -> Tensor:
        """The variance of one vector's entries, without bias; NaN of a single vector."""
        return self._spread / (self.count - 1) if self.count > 1 else torch.full_like(self._spread, torch.nan)

    @property
    def stderr(self) -> Tensor:
        """The standard error of the mean's entries."""
        return (self.variance / self.count).sqrt()


def batches(start: int, stop: int, tolerance: float | None) -> Iterator[int]:
    """Numbers of vectors at which to look whether the tolerance is met: by a quarter more each, 16 at least."""
    while start < stop:
        start = stop if tolerance is None else min(stop, start + max(_LEAST, start // 4))
        yield start


def is_enough(values: Tensor, stderr: Tensor, tolerance: float | None, share: Share) -> bool:
    """Whether the norm of the errors is at most `tolerance` times the norm of the diagonal, over the finite entries.

    The norm of an estimate holds its errors too: the square of the diagonal's is about that of the values less that of
    the errors.
    """
    if tolerance is None:
        return False
    known = values.isfinite() & stderr.isfinite()
    error, size = (norm(one[known]) for one in (stderr, values))
    return bool(share.first(float(error * math.hypot(1, tolerance) <= tolerance * size)))
