"""Normalization, and residual nets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.curvature.corpus.build import Build, Built, named, of_module, randn


class ResNetBlock(nn.Module):
    """Two convolutions and a projection around them, all followed by BatchNorm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.conv2 = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(3)
        self.project = nn.Conv2d(2, 3, 1, stride=2, bias=False)
        self.bn3 = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 3)
        for norm in (self.bn1, self.bn2, self.bn3):
            norm.running_mean = 0.3 * torch.randn(norm.num_features)
            norm.running_var = 0.5 + torch.rand(norm.num_features)
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.normal_(norm.bias, 0.0, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)) + self.bn3(self.project(x)))
        result: Tensor = self.head(out.mean(dim=(2, 3)))
        return result


def resnet_block_train() -> Built:
    x = randn(4, 2, 4, 4)
    return of_module(ResNetBlock().train(), lambda call: functional.cross_entropy(call(x), torch.tensor([0, 1, 2, 1])))


def resnet_block_eval() -> Built:
    x = randn(4, 2, 4, 4)
    return of_module(ResNetBlock().eval(), lambda call: functional.cross_entropy(call(x), torch.tensor([0, 1, 2, 1])))


def batch_norm_1d() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Softplus(), nn.Linear(3, 1))
    x = randn(6, 2)
    return of_module(module, lambda call: call(x).square().mean().sqrt())


def batch_norm_over_time() -> Built:
    module = nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 2))
    x = randn(3, 2, 4)
    return of_module(module, lambda call: call(x).exp().mean())


def batch_norm_without_scale() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, affine=False, track_running_stats=False), nn.GELU())
    x = randn(6, 2)
    return of_module(module, lambda call: (call(x) ** 3).sum())


def layer_norm_net() -> Built:
    module = nn.Sequential(
        nn.LayerNorm(3), nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 1)
    )
    x = randn(4, 3)
    return of_module(module, lambda call: call(x).exp().sum())


def layer_norm_on_3d() -> Built:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2))
    x = randn(2, 3, 3)
    return of_module(module, lambda call: call(x).exp().mean())


def layer_norm_over_two_axes() -> Built:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm([3, 2]), nn.SiLU(), nn.Flatten(), nn.Linear(6, 1))
    x = randn(2, 3, 3)
    return of_module(module, lambda call: call(x).square().sum())


def group_norm_net() -> Built:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 2, 2, groups=2), nn.Flatten(), nn.Linear(2, 2)
    )
    x = randn(3, 1, 3, 3)
    return of_module(module, lambda call: functional.cross_entropy(call(x), torch.tensor([0, 1, 0])))


def instance_norm_net() -> Built:
    module = nn.Sequential(
        nn.Conv2d(1, 3, 2, bias=False), nn.InstanceNorm2d(3, affine=True), nn.GELU(), nn.Flatten(), nn.Linear(12, 2)
    )
    x = randn(2, 1, 3, 3)
    return of_module(module, lambda call: call(x).exp().sum())


def rms_norm_net() -> Built:
    module = nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.SiLU(), nn.Linear(4, 2), nn.RMSNorm(2))
    x, y = randn(4, 3), randn(4, 2)
    return of_module(module, lambda call: functional.mse_loss(call(x), y))


class Residual(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(functional.gelu(self.up(self.norm(x))))
        return result


def residual_net() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), Residual(3, 4), Residual(3, 4), nn.Linear(3, 1))
    x, y = randn(4, 2), randn(4, 1)
    return of_module(module, lambda call: functional.mse_loss(call(x), y))


def residual_net_on_tokens() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), Residual(3, 4), nn.Linear(3, 2))
    x = randn(2, 3, 2)
    return of_module(module, lambda call: functional.cross_entropy(call(x).flatten(0, 1), torch.arange(6) % 2))


def local_response_norm() -> Built:
    module = nn.Sequential(nn.Conv1d(1, 4, 2), nn.LocalResponseNorm(3), nn.Tanh())
    x = randn(2, 1, 4)
    return of_module(module, lambda call: call(x).exp().sum())


def batch_renormalized_by_hand() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    x = randn(5, 2)

    def loss(out: Tensor) -> Tensor:
        normal = (out - out.mean(0)) / (out.var(0, unbiased=False) + 1e-5).sqrt()
        return (normal**3).sum() + out.square().sum()

    return of_module(module, lambda call: loss(call(x)))


CASES: Mapping[str, Build] = named(
    resnet_block_train,
    resnet_block_eval,
    batch_norm_1d,
    batch_norm_over_time,
    batch_norm_without_scale,
    layer_norm_net,
    layer_norm_on_3d,
    layer_norm_over_two_axes,
    group_norm_net,
    instance_norm_net,
    rms_norm_net,
    residual_net,
    residual_net_on_tokens,
    local_response_norm,
    batch_renormalized_by_hand,
)
