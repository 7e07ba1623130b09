"""The named graphs that tests share: each builds afresh a program that breaks naive tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass
class Case:
    """What to trace."""

    outputs: Any
    params: Any = None
    lower: list[Any] = field(default_factory=list)


def mlp(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def shared_leaf() -> Case:
    w = torch.tensor([1.5, -2.0], requires_grad=True)
    return Case((w * w + w).sum(), {"w": w})


def multi_output() -> Case:
    x = torch.arange(6.0).requires_grad_()
    first, second = x.split(3)
    lstm = nn.LSTM(3, 2, num_layers=2)
    states, (hidden, _) = lstm(torch.stack([first, second])[:, None])
    rows = x.view(2, 3).unbind()
    return Case([states, hidden, rows[1] * 2], [("x", x), ("lstm", lstm)])


class Cube(torch.autograd.Function):
    """x^3, differentiable twice; keeps a name on its ctx that hides the node's own `name`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.name = "mine"
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient: Tensor = grads[0] * 3 * x**2
        return gradient


class OnceOnly(torch.autograd.Function):
    """Cannot be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, None)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, _ = ctx.saved_tensors
        gradient: Tensor = grads[0] * 2 * x
        return gradient


def custom_function() -> Case:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    return Case((Cube.apply(x) + OnceOnly.apply(x)).sum(), {"x": x})


def views() -> Case:
    x = torch.arange(12.0).requires_grad_()
    grid = x.view(3, 4)
    return Case(grid.t()[1:].reshape(-1).unfold(0, 2, 3).diagonal().sum() + grid[1, 2], {"x": x})


def in_place() -> Case:
    x = torch.arange(4.0).requires_grad_()
    y = x * 2
    y[1:3].mul_(x[0] + 1)
    y.add_(1)
    return Case(y.sum(), {"x": x})


def checkpoint_non_reentrant() -> Case:
    net = mlp()
    x = torch.ones(2, 3, dtype=torch.float64)
    return Case(checkpoint(net, x, use_reentrant=False).sum(), net)


def checkpoint_reentrant() -> Case:
    net = mlp()
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    return Case(checkpoint(net, x, use_reentrant=True).sum(), {"x": x})


def deep_chain(depth: int = 5_000) -> Case:
    w = torch.tensor(1.0, requires_grad=True)
    y = w.clone()
    for _ in range(depth):
        y = y * w
    return Case(y, {"w": w})


def tied_weights() -> Case:
    torch.manual_seed(0)
    net = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    net["head"].weight = net["embed"].weight
    hidden = net["embed"](torch.tensor([0, 3, 3]))
    return Case(nn.functional.cross_entropy(net["head"](hidden), torch.tensor([3, 1, 0])), net)


def maml() -> Case:
    net = mlp()
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    names = [name for name, _ in net.named_parameters()]
    inner = net(x).pow(2).mean()
    grads = torch.autograd.grad(inner, list(net.parameters()), create_graph=True)
    fast = {name: p - 0.1 * g for name, p, g in zip(names, net.parameters(), grads, strict=True)}
    outer = (torch.func.functional_call(net, fast, x) - 1).pow(2).mean()
    return Case(outer, net, [inner])


def wgan_gp() -> Case:
    torch.manual_seed(1)
    critic = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    real, fake = torch.randn(4, 3), torch.randn(4, 3)
    mix = (0.3 * real + 0.7 * fake).requires_grad_()
    score = critic(mix).sum()
    (gradient,) = torch.autograd.grad(score, mix, create_graph=True)
    penalty = ((gradient.norm(dim=1) - 1) ** 2).mean()
    loss = critic(fake).mean() - critic(real).mean()
    return Case(loss + 10 * penalty, [("critic", critic), ("mix", mix)], [[score, loss]])


def pinn() -> Case:
    net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    x = torch.linspace(0, 1, 5, dtype=torch.float64).reshape(5, 1).requires_grad_()
    u = net(x)
    (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
    return Case((ddu + u).pow(2).mean(), [("net", net), ("x", x)], [u, du])


def attention() -> Case:
    torch.manual_seed(2)
    q, k, v = (torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weights = (q @ k.transpose(1, 2) / 3**0.5).softmax(-1)
    return Case((weights @ v).pow(2).sum(), {"q": q, "k": k, "v": v})


def batch_norm() -> Case:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    return Case(net(torch.randn(2, 2, 5, 5)).sum(), net)


def complex_numbers() -> Case:
    z = torch.tensor([1 + 2j, -1j], requires_grad=True)
    return Case((z * z.conj()).real.sum() + torch.view_as_real(z).sum(), {"z": z})


def sparse() -> Case:
    coo = torch.eye(3).to_sparse().requires_grad_()
    csr = torch.eye(3).to_sparse_csr().requires_grad_()
    dense = torch.ones(3, 2, requires_grad=True)
    return Case([torch.sparse.mm(coo, dense), csr @ dense], {"coo": coo, "csr": csr, "dense": dense})


def half_precision() -> Case:
    w = torch.ones(2, 2, dtype=torch.float16, requires_grad=True)
    b = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    return Case((w @ w).float().sum() + (b * b).float().sum(), {"w": w, "b": b})


def meta() -> Case:
    net = nn.Linear(1_000_000, 1_000_000, device="meta")
    return Case(net(torch.empty(8, 1_000_000, device="meta")).sum(), net)


def nested() -> Case:
    x = torch.ones(2, 3, requires_grad=True)
    ragged = torch.nested.as_nested_tensor([x[:1], x], layout=torch.jagged)
    return Case((ragged * 2).values().sum(), {"x": x})


def offloaded() -> Case:
    w = torch.ones(3, requires_grad=True)
    with torch.autograd.graph.save_on_cpu():
        return Case((w * w).exp().sum(), {"w": w})


def tensor_hooks() -> Case:
    w = torch.ones(3, requires_grad=True)
    y = w * w
    y.register_hook(lambda g: g * 2)
    y.retain_grad()
    w.register_post_accumulate_grad_hook(lambda p: None)
    return Case(y.sum(), {"w": w})


def vmap_leftovers() -> Case:
    w = torch.ones(3, requires_grad=True)
    inside: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        y = (x * w).sin()
        inside.append(y)
        return y.sum()

    mapped = torch.func.vmap(f)(torch.ones(4, 3))
    torch.func.grad(f)(torch.ones(3))
    return Case([mapped, *inside], {"w": w})


CASES: dict[str, Callable[[], Case]] = {
    build.__name__: build
    for build in (
        shared_leaf,
        multi_output,
        custom_function,
        views,
        in_place,
        checkpoint_non_reentrant,
        checkpoint_reentrant,
        deep_chain,
        tied_weights,
        maml,
        wgan_gp,
        pinn,
        attention,
        batch_norm,
        complex_numbers,
        sparse,
        half_precision,
        meta,
        nested,
        offloaded,
        tensor_hooks,
        vmap_leftovers,
    )
}
