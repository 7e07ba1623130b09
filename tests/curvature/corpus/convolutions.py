"""Convolutions of every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.curvature.corpus.build import Build, Built, named, of_module, randn


def _between(conv: Callable[[], nn.Module], *shape: int) -> Build:
    """The convolution, tanh and a Linear, so that the Hessian is of both factors."""

    def build() -> Built:
        module = conv().double()
        x = randn(*shape)
        with torch.no_grad():
            width = module(x).flatten(1).shape[1]
        net = nn.Sequential(module, nn.Tanh(), nn.Flatten(), nn.Linear(width, 2))
        return of_module(net, lambda call: functional.cross_entropy(call(x), torch.arange(len(x)) % 2))

    return build


def _two(first: Callable[[], nn.Module], second: Callable[[], nn.Module], *shape: int) -> Build:
    def build() -> Built:
        net = nn.Sequential(first(), nn.SiLU(), second(), nn.Tanh(), nn.Flatten())
        x = randn(*shape)
        return of_module(net, lambda call: call(x).exp().mean())

    return build


def conv_unbatched() -> Built:
    net = nn.Sequential(nn.Conv2d(2, 2, 2), nn.Tanh(), nn.Conv2d(2, 1, 2))
    x = randn(2, 4, 4)
    return of_module(net, lambda call: call(x).exp().sum())


def conv_1d_unbatched() -> Built:
    net = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Conv1d(3, 1, 2))
    x = randn(2, 5)
    return of_module(net, lambda call: call(x).exp().sum())


def conv_one_sample() -> Built:
    net = nn.Sequential(nn.Conv2d(2, 2, 2), nn.Tanh(), nn.Conv2d(2, 1, 2))
    x = randn(1, 2, 4, 4)
    return of_module(net, lambda call: call(x).exp().sum())


def conv_shared() -> Built:
    """One kernel at two scales."""
    conv = nn.Conv2d(1, 2, 2)
    x = randn(2, 1, 6, 6)

    def forward(call: Callable[..., Any]) -> Any:
        small = functional.avg_pool2d(x, 2)
        return call(x).tanh().square().mean() + call(small).exp().mean()

    return of_module(conv, forward)


def conv_with_weight_of_weights() -> Built:
    """The kernel is a product, as in a low-rank factorization."""
    params = {"left": randn(3, 1), "right": randn(1, 8), "bias": randn(3)}
    x = randn(2, 2, 4, 4)

    def loss(p: dict[str, Tensor]) -> Tensor:
        return functional.conv2d(x, (p["left"] @ p["right"]).view(3, 2, 2, 2), p["bias"]).tanh().exp().mean()

    return loss, params


def conv_pooled() -> Built:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 2, 2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
    )
    x = randn(3, 1, 4, 4)
    return of_module(net, lambda call: call(x).exp().sum())


def conv_upsampled() -> Built:
    net = nn.Sequential(nn.Conv2d(1, 4, 2), nn.PixelShuffle(2), nn.Tanh(), nn.Upsample(scale_factor=2, mode="bilinear"))
    x = randn(2, 1, 3, 3)
    return of_module(net, lambda call: call(x).exp().mean())


def unfolded() -> Built:
    """A convolution written as unfold and a Linear."""
    net = nn.Linear(4, 3)
    x = randn(2, 1, 3, 3)
    return of_module(net, lambda call: call(functional.unfold(x, 2).transpose(1, 2)).tanh().exp().sum())


CASES: Mapping[str, Build] = {
    "conv_1d": _between(lambda: nn.Conv1d(2, 3, 2), 3, 2, 4),
    "conv_2d": _between(lambda: nn.Conv2d(2, 3, 2), 3, 2, 3, 3),
    "conv_3d": _between(lambda: nn.Conv3d(1, 2, 2), 2, 1, 3, 3, 3),
    "conv_strided": _between(lambda: nn.Conv2d(2, 2, 3, stride=2, padding=1), 3, 2, 5, 5),
    "conv_uneven": _between(lambda: nn.Conv2d(1, 2, (3, 2), stride=(2, 1), padding=(0, 1)), 3, 1, 6, 4),
    "conv_stride_beyond_kernel": _between(lambda: nn.Conv2d(1, 3, 1, stride=2), 3, 1, 4, 4),
    "conv_stride_leaves_a_rest": _between(lambda: nn.Conv1d(1, 2, 2, stride=3), 3, 1, 7),
    "conv_dilated": _between(lambda: nn.Conv2d(1, 2, 2, dilation=2, padding=1), 2, 1, 4, 4),
    "conv_grouped": _between(lambda: nn.Conv2d(4, 4, 2, groups=2), 2, 4, 3, 3),
    "conv_depthwise": _between(lambda: nn.Conv2d(3, 3, 2, groups=3), 2, 3, 3, 3),
    "conv_depthwise_multiplied": _between(lambda: nn.Conv2d(2, 4, 2, groups=2), 2, 2, 3, 3),
    "conv_depthwise_1d": _between(lambda: nn.Conv1d(3, 3, 2, groups=3, padding=1), 2, 3, 4),
    "conv_without_bias": _between(lambda: nn.Conv2d(2, 3, 2, bias=False), 3, 2, 3, 3),
    "conv_pointwise": _between(lambda: nn.Conv2d(3, 2, 1), 2, 3, 2, 2),
    "conv_circular": _between(lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), 2, 1, 3, 3),
    "conv_reflect": _between(lambda: nn.Conv1d(1, 2, 3, padding=1, padding_mode="reflect"), 2, 1, 4),
    "conv_same": _between(lambda: nn.Conv2d(1, 2, (1, 3), padding="same"), 2, 1, 2, 3),
    "conv_whole_input": _between(lambda: nn.Conv2d(2, 3, 3), 3, 2, 3, 3),
    "conv_transposed_1d": _between(lambda: nn.ConvTranspose1d(2, 3, 2, stride=2), 2, 2, 3),
    "conv_transposed_1d_output_padding": _between(
        lambda: nn.ConvTranspose1d(2, 2, 3, stride=3, padding=1, output_padding=2, dilation=2), 2, 2, 3
    ),
    "conv_transposed_2d": _between(lambda: nn.ConvTranspose2d(2, 2, 2), 2, 2, 2, 2),
    "conv_transposed_2d_output_padding": _between(
        lambda: nn.ConvTranspose2d(2, 1, 3, stride=2, padding=1, output_padding=1), 2, 2, 2, 2
    ),
    "conv_transposed_grouped": _between(lambda: nn.ConvTranspose2d(4, 4, 2, groups=2, bias=False), 2, 4, 2, 2),
    "conv_transposed_depthwise": _between(lambda: nn.ConvTranspose1d(3, 3, 2, groups=3, stride=2), 2, 3, 3),
    "conv_transposed_3d": _between(lambda: nn.ConvTranspose3d(1, 1, 2), 2, 1, 2, 2, 2),
    "conv_chain": _two(
        lambda: nn.Conv2d(2, 3, 3, padding=1), lambda: nn.Conv2d(3, 2, 3, stride=2, padding=1), 3, 2, 4, 4
    ),
    "conv_separable": _two(lambda: nn.Conv2d(3, 3, 2, groups=3), lambda: nn.Conv2d(3, 2, 1), 2, 3, 3, 3),
    "conv_autoencoder": _two(
        lambda: nn.Conv1d(1, 2, 3, stride=2), lambda: nn.ConvTranspose1d(2, 1, 3, stride=2), 3, 1, 7
    ),
    **named(conv_unbatched, conv_1d_unbatched, conv_one_sample, conv_shared, conv_with_weight_of_weights),
    **named(conv_pooled, conv_upsampled, unfolded),
}
