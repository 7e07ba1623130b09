"""Losses that differentiate inside, checkpoints, and Functions of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.curvature.corpus.build import Build, Built, Params, named, of_module, randn
from tests.curvature.losses import Cube


def slope(output: Tensor, x: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    return found


def pinn() -> Built:
    """Burgers' residual: u_t + u u_x − ν u_xx, and a boundary."""
    module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    points, edge = randn(4, 2), randn(3, 2)

    def forward(call: Callable[..., Any]) -> Tensor:
        x = points.clone().requires_grad_()
        u = call(x)
        first = slope(u, x)
        u_x, u_t = first[:, :1], first[:, 1:]
        u_xx = slope(u_x, x)[:, :1]
        result: Tensor = (u_t + u * u_x - 0.1 * u_xx).square().mean() + call(edge).square().mean()
        return result

    return of_module(module, forward)


def pinn_with_separate_inputs() -> Built:
    """Heat equation; x and t are columns of their own."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    points = randn(3, 2)

    def forward(call: Callable[..., Any]) -> Tensor:
        x, t = (points[:, i : i + 1].clone().requires_grad_() for i in range(2))
        u = call(torch.cat([x, t], dim=1))
        return (slope(u, t) - slope(slope(u, x), x)).square().mean()

    return of_module(module, forward)


def wgan_gp() -> Built:
    module = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1))
    real, fake, mix = randn(4, 3), randn(4, 3), torch.rand(4, 1, dtype=torch.float64)

    def forward(call: Callable[..., Any]) -> Tensor:
        x = (mix * real + (1 - mix) * fake).requires_grad_()
        penalty = (slope(call(x), x).norm(2, dim=1) - 1).square().mean()
        result: Tensor = call(fake).mean() - call(real).mean() + 10 * penalty
        return result

    return of_module(module, forward)


def maml() -> Built:
    """Two inner steps of gradient descent, and the loss after them on other samples."""
    module = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    module.double()
    params = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    xs, ys = randn(2, 4, 1), randn(2, 4, 1)

    def loss(tensors: Params) -> Tensor:
        adapted = dict(tensors)
        for _ in range(2):
            inner = functional.mse_loss(torch.func.functional_call(module, adapted, (xs[0],)), ys[0])
            grads = torch.autograd.grad(inner, list(adapted.values()), create_graph=True)
            adapted = {name: p - 0.1 * g for (name, p), g in zip(adapted.items(), grads, strict=True)}
        return functional.mse_loss(torch.func.functional_call(module, adapted, (xs[1],)), ys[1])

    return loss, params


def squared_gradient() -> Built:
    """A penalty on the gradient by the parameters themselves."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    x, y = randn(4, 2), randn(4, 1)
    plain, params = of_module(module, lambda call: functional.mse_loss(call(x), y))

    def loss(tensors: Params) -> Tensor:
        value = plain(tensors)
        grads = torch.autograd.grad(value, list(tensors.values()), create_graph=True)
        return value + torch.stack([g.square().sum() for g in grads]).sum()

    return loss, params


def checkpointed() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x = randn(4, 2)
    return of_module(module, lambda call: checkpoint(call, x, use_reentrant=False).pow(3).sum())


def checkpointed_halves() -> Built:
    first = nn.Sequential(nn.Linear(2, 3), nn.GELU())
    second = nn.Sequential(nn.Linear(3, 3), nn.GELU())

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = first, second, nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Any:
            x = checkpoint(self.first, x, use_reentrant=False)
            return self.head(checkpoint(self.second, x, use_reentrant=False))

    x = randn(4, 2)
    return of_module(Both(), lambda call: call(x).square().mean())


def custom_function() -> Built:
    """Through NumPy, which no vmap follows."""
    module = nn.Linear(2, 2)
    x = randn(3, 2)

    def forward(call: Callable[..., Any]) -> Any:
        return (Cube.apply(call(x)).sum(1)).cosh().sum()

    return of_module(module, forward)


class Swish(torch.autograd.Function):
    """x σ(x), whose backward is made of ordinary operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        result: Tensor = grad * s * (1 + x * (1 - s))
        return result


class CenteredCube(torch.autograd.Function):
    """Cubes of the distances from the mean over the batch: samples interact where no op's name says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x - x.mean(0)) ** 3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        inner = 3 * grad * (x - x.mean(0)) ** 2
        result: Tensor = inner - inner.mean(0)
        return result


class Exp(torch.autograd.Function):
    """No exponential, but a Function of one's own that mixes samples, under the name of one that does not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square() * x.mean(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = 2 * grad * x * x.mean(0) + (grad * x.square()).mean(0)
        return result


class Reversal(torch.autograd.Function):
    """The identity, with the gradient's sign turned: the Hessian is no longer symmetric."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


def _with(function: Any) -> Built:
    first, second = nn.Linear(2, 3), nn.Linear(3, 2)

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x: Tensor) -> Any:
            return self.second(function.apply(self.first(x)))

    x = randn(4, 2)
    return of_module(Between(), lambda call: call(x).exp().mean())


def custom_function_of_tensors() -> Built:
    return _with(Swish)


def custom_function_mixing_samples() -> Built:
    return _with(CenteredCube)


def custom_function_named_as_torchs() -> Built:
    return _with(Exp)


def gradient_normalized_by_a_hook() -> Built:
    """A hook mixes the samples, on the way back alone."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    x = randn(4, 2)

    def forward(call: Callable[..., Any]) -> Tensor:
        out: Tensor = call(x) * 1
        if out.requires_grad:
            out.register_hook(lambda grad: grad / grad.norm())
        return out.exp().sum()

    return of_module(module, forward)


def gradient_reversal() -> Built:
    return _with(Reversal)


CASES: Mapping[str, Build] = named(
    pinn,
    pinn_with_separate_inputs,
    wgan_gp,
    maml,
    squared_gradient,
    checkpointed,
    checkpointed_halves,
    custom_function,
    custom_function_of_tensors,
    custom_function_mixing_samples,
    custom_function_named_as_torchs,
    gradient_normalized_by_a_hook,
    gradient_reversal,
)
