"""Samples that interact: what may not be computed for all samples at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.curvature.corpus.build import Build, Built, named, of_module, randn


def _mixed(mix: Callable[[Tensor], Tensor], samples: int = 4, width: int = 2) -> Built:
    """An MLP, whose outputs `[samples, width]` the loss lets meet."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, width))
    x = randn(samples, 2)
    return of_module(module, lambda call: mix(call(x)))


def contrastive() -> Built:
    """InfoNCE: each sample against all others."""

    def mix(out: Tensor) -> Tensor:
        left, right = functional.normalize(out, dim=1).chunk(2)
        return functional.cross_entropy(left @ right.t() / 0.3, torch.arange(2))

    return _mixed(mix)


def cosine_similarities() -> Built:
    return _mixed(lambda out: functional.cosine_similarity(out[:, None], out[None], dim=-1).exp().mean())


def gram_matrix() -> Built:
    return _mixed(lambda out: (out @ out.t()).exp().mean())


def distances() -> Built:
    return _mixed(lambda out: (out[:, None] - out[None]).square().sum(-1).neg().exp().sum())


def triplets() -> Built:
    return _mixed(lambda out: functional.softplus((out[:2] - out[2:]).square().sum(1) - 0.5).sum())


def softmax_over_the_batch() -> Built:
    return _mixed(lambda out: (out.softmax(0) * torch.arange(4)[:, None]).sum().square())


def sum_then_nonlinearity() -> Built:
    return _mixed(lambda out: out.sum(0).tanh().exp().sum())


def mean_then_nonlinearity() -> Built:
    return _mixed(lambda out: out.mean(0).square().sum())


def root_of_the_mean() -> Built:
    return _mixed(lambda out: out.square().mean().sqrt())


def logarithm_of_the_sum() -> Built:
    return _mixed(lambda out: torch.logsumexp(out, dim=(0, 1)))


def squared_loss() -> Built:
    return _mixed(lambda out: out.exp().mean() ** 2)


def product_of_losses() -> Built:
    return _mixed(lambda out: out.exp().mean() * out.square().sum())


def variance() -> Built:
    return _mixed(lambda out: out.var(0).sum())


def standard_deviation() -> Built:
    return _mixed(lambda out: out.std())


def correlation() -> Built:
    """Of two outputs, over the batch."""
    return _mixed(lambda out: torch.corrcoef(out.t())[0, 1] ** 2)


def log_determinant() -> Built:
    return _mixed(lambda out: torch.logdet(out.t() @ out + torch.eye(2)))


def neighbours() -> Built:
    return _mixed(lambda out: (out * out.roll(1, 0)).exp().mean())


def reversed_batch() -> Built:
    return _mixed(lambda out: (out * out.flip(0)).sin().sum())


def running_sum() -> Built:
    return _mixed(lambda out: out.cumsum(0).square().sum())


def running_product() -> Built:
    return _mixed(lambda out: (1.5 + out).cumprod(0).sum())


def sorted_batch() -> Built:
    """Sliced Wasserstein: quantiles against fixed ones."""
    return _mixed(lambda out: (out.sort(0).values ** 3 * torch.linspace(0, 1, 4)[:, None]).sum())


def sorted_and_joined() -> Built:
    return _mixed(lambda out: out.sort(0).values.diff(dim=0).square().sum())


def largest_of_the_batch() -> Built:
    return _mixed(lambda out: out.exp().amax(0).square().sum())


def batch_folded_into_channels() -> Built:
    """A reshape that puts samples side by side."""
    return _mixed(lambda out: out.reshape(2, 4).sum(1).exp().sum())


def batch_transposed() -> Built:
    return _mixed(lambda out: (out.t() @ torch.arange(1.0, 5.0).double()).square().sum())


def convolved_over_the_batch() -> Built:
    kernel = torch.tensor([[[0.5, 1.0, -1.0]]], dtype=torch.float64)
    return _mixed(lambda out: functional.conv1d(out.t().unsqueeze(1), kernel, padding=1).exp().mean())


def barely_coupled() -> Built:
    """A coupling of 1e-9 of the rest: seen by a test of exact zeros, not by one of small numbers."""
    return _mixed(lambda out: out.exp().mean() + 1e-9 * out.sum(0).square().sum())


def coupled_pair() -> Built:
    """The first and the last sample only."""
    return _mixed(lambda out: out.exp().mean() + (out[0] * out[-1]).sum(), samples=7)


def softmax_cross_samples() -> Built:
    return _mixed(lambda out: functional.cross_entropy(out.t(), torch.tensor([0, 3])))


def normalized_by_the_batch() -> Built:
    return _mixed(lambda out: (out / out.norm()).exp().sum())


def maximum_likelihood_of_pairs() -> Built:
    """Cox' partial likelihood: risk sets are the later samples."""
    return _mixed(lambda out: (out.logcumsumexp(0) - out).sum(), width=1)


def kernel_two_sample() -> Built:
    """Maximum mean discrepancy against fixed points."""

    def mix(out: Tensor) -> Tensor:
        fixed = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
        both = torch.cat([out, fixed])
        kernel = (both[:, None] - both[None]).square().sum(-1).neg().exp()
        sign = torch.cat([torch.full((4,), 0.25), torch.full((3,), -1 / 3)]).double()
        return sign @ kernel @ sign

    return _mixed(mix)


def torn_indices() -> Built:
    """Two sums over 9 entries, 3 of each of 3 samples; one has them along its rows, one along its columns.

    Every tensor behind one sum alone keeps the samples apart. Where the sums meet they are laid out differently.
    """

    def mix(out: Tensor) -> Tensor:
        out = out.flatten()
        rows, columns = (one.expand(3, 3).reshape(9) for one in (out.tanh()[:, None], out.sin()[None]))
        both = out.sigmoid()[:, None].expand(3, 3).reshape(9).exp()
        return (both.cos() * columns).sum() + (both.exp() * rows).sum()

    return _mixed(mix, samples=3, width=1)


CASES: Mapping[str, Build] = named(
    contrastive,
    cosine_similarities,
    gram_matrix,
    distances,
    triplets,
    softmax_over_the_batch,
    sum_then_nonlinearity,
    mean_then_nonlinearity,
    root_of_the_mean,
    logarithm_of_the_sum,
    squared_loss,
    product_of_losses,
    variance,
    standard_deviation,
    correlation,
    log_determinant,
    neighbours,
    reversed_batch,
    running_sum,
    running_product,
    sorted_batch,
    sorted_and_joined,
    largest_of_the_batch,
    batch_folded_into_channels,
    batch_transposed,
    convolved_over_the_batch,
    barely_coupled,
    coupled_pair,
    softmax_cross_samples,
    normalized_by_the_batch,
    maximum_likelihood_of_pairs,
    kernel_two_sample,
    torn_indices,
)
