"""MLPs, and what their output is compared by."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.curvature.corpus.build import Build, Built, Params, named, of_module, randn

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


def net(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), activation(), nn.Linear(4, 3), activation(), nn.Linear(3, 2))


def mse(output: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(output, y)


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(output, (y[:, 0] > 0).long())


def huber(output: Tensor, y: Tensor) -> Tensor:
    """Some residuals within the quadratic part, some without."""
    return functional.huber_loss(output, y, delta=0.6)


def rmse(output: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(output, y).sqrt()


def tripled(output: Tensor, y: Tensor) -> Tensor:
    return 3 * functional.mse_loss(output, y)


def mlp(activation: str, compare: Callable[[Tensor, Tensor], Tensor]) -> Build:
    def build() -> Built:
        x, y = randn(5, 3), randn(5, 2)
        return of_module(net(ACTIVATIONS[activation]), lambda call: compare(call(x), y))

    return build


def decayed(activation: str) -> Build:
    """An L2 penalty on all parameters."""

    def build() -> Built:
        x, y = randn(5, 3), randn(5, 2)
        plain, params = of_module(net(ACTIVATIONS[activation]), lambda call: mse(call(x), y))

        def loss(tensors: Params) -> Tensor:
            return plain(tensors) + 0.05 * torch.stack([one.square().sum() for one in tensors.values()]).sum()

        return loss, params

    return build


def _on(sizes: tuple[int, ...], shape: tuple[int, ...], reduce: Callable[[Tensor], Tensor]) -> Built:
    """An MLP with tanh between its layers, on inputs of one shape."""
    layers: list[nn.Module] = []
    for inner, outer in itertools.pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.Tanh()]
    x = randn(*shape)
    return of_module(nn.Sequential(*layers[:-1]), lambda call: reduce(call(x)))


def one_sample() -> Built:
    return _on((3, 4, 2), (1, 3), lambda out: out.exp().sum())


def no_batch() -> Built:
    """Linear on a 1-d input is matrix times vector."""
    return _on((3, 4, 2), (3,), lambda out: out.exp().sum())


def linear_on_3d() -> Built:
    return _on((3, 4, 2), (2, 3, 3), lambda out: out.exp().mean())


def linear_on_4d() -> Built:
    return _on((2, 3, 2), (2, 2, 3, 2), lambda out: (out**3).sum())


def no_bias_on_3d() -> Built:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 2, bias=False))
    x = randn(2, 3, 3)
    return of_module(module, lambda call: call(x).exp().sum())


def weighted_samples() -> Built:
    x, y, weights = randn(5, 3), randn(5, 2), torch.tensor([0.1, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    return of_module(net(nn.Tanh), lambda call: (weights[:, None] * (call(x) - y) ** 2).mean())


def binary_cross_entropy() -> Built:
    x, y = randn(5, 3), torch.rand(5, 2, dtype=torch.float64)
    return of_module(net(nn.Sigmoid), lambda call: functional.binary_cross_entropy_with_logits(call(x), y))


def gaussian_likelihood() -> Built:
    """One output is the mean, the other the logarithm of the variance."""
    x, y = randn(5, 3), randn(5, 1)

    def likelihood(output: Tensor) -> Tensor:
        mean, log_variance = output.chunk(2, dim=1)
        return functional.gaussian_nll_loss(mean, y, log_variance.exp())

    return of_module(net(nn.ELU), lambda call: likelihood(call(x)))


def distillation() -> Built:
    x, target = randn(5, 3), randn(5, 2).softmax(1)
    return of_module(
        net(nn.Mish), lambda call: functional.kl_div(call(x).log_softmax(1), target, reduction="batchmean")
    )


def relu() -> Built:
    x, y = randn(5, 3), randn(5, 2)
    return of_module(net(nn.ReLU), lambda call: mse(call(x), y))


_COMPARISONS = (mse, cross_entropy, huber, rmse, tripled)

CASES: Mapping[str, Build] = {
    **{f"mlp_{name}_{how.__name__}": mlp(name, how) for name in ACTIVATIONS for how in _COMPARISONS},
    **{f"mlp_{name}_decayed": decayed(name) for name in ACTIVATIONS},
    **named(one_sample, no_batch, linear_on_3d, linear_on_4d, no_bias_on_3d, weighted_samples),
    **named(binary_cross_entropy, gaussian_likelihood, distillation, relu),
}
