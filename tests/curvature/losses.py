"""Losses whose Hessians the tests know or can compute another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

Params = dict[str, Tensor]
Loss = Callable[[Params], Tensor]


def _of_module(module: nn.Module, forward: Callable[[Callable[..., Any]], Tensor]) -> tuple[Loss, Params]:
    """A loss of the module's parameters, computed on whatever tensors stand for them."""
    module.double()
    params = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    def loss(tensors: Params) -> Tensor:
        return forward(lambda *args: torch.func.functional_call(module, tensors, args))

    return loss, params


def mlp() -> tuple[Loss, Params]:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    return _of_module(module, lambda call: functional.mse_loss(call(x), y))


def tied_weights() -> tuple[Loss, Params]:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)
            self.outer = nn.Linear(3, 3, bias=False)
            self.outer.weight = self.inner.weight

        def forward(self, x: Tensor) -> Any:
            return self.outer(torch.sin(self.inner(x)))

    x = torch.randn(4, 3).double()
    return _of_module(Tied(), lambda call: call(x).pow(2).sum())


def conv_group_norm() -> tuple[Loss, Params]:
    module = nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(3, 1, 3, 3).double()
    return _of_module(module, lambda call: functional.cross_entropy(call(x), torch.tensor([0, 1, 0])))


def batch_norm() -> tuple[Loss, Params]:
    module = nn.Sequential(
        nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Softplus(), nn.Linear(3, 1)
    )
    x = torch.randn(6, 2).double()
    return _of_module(module, lambda call: call(x).pow(2).mean().sqrt())


def layer_norm() -> tuple[Loss, Params]:
    module = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 1))
    x = torch.randn(3, 2).double()
    return _of_module(module, lambda call: call(x).exp().sum())


def attention() -> tuple[Loss, Params]:
    module = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4).double()

    def forward(call: Callable[..., Any]) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            result: Tensor = call(x, x, x)[0].pow(2).sum()
            return result

    return _of_module(module, forward)


def lstm_cell() -> tuple[Loss, Params]:
    module = nn.LSTMCell(2, 2)
    x = torch.randn(3, 4, 2).double()

    def forward(call: Callable[..., Any]) -> Tensor:
        state = None
        for step in x:
            state = call(step, state)
        assert state is not None
        result: Tensor = state[0].pow(2).sum()
        return result

    return _of_module(module, forward)


def embedding() -> tuple[Loss, Params]:
    module = nn.Sequential(nn.Embedding(4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1))
    tokens = torch.tensor([[0, 1], [1, 3]])
    return _of_module(module, lambda call: call(tokens).pow(2).sum())


def scalar_and_empty() -> tuple[Loss, Params]:
    params = {
        "scale": torch.tensor(1.5).double(),
        "nothing": torch.empty(0, 3).double(),
        "rows": torch.randn(2, 3).double().t(),  # not contiguous
    }

    def loss(p: Params) -> Tensor:
        return (p["scale"] ** 3 * p["rows"].exp()).sum() + p["nothing"].pow(2).sum()

    return loss, params


def piecewise_linear() -> tuple[Loss, Params]:
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = torch.randn(4, 2).double()
    return _of_module(module, lambda call: call(x).sum())


def checkpointed() -> tuple[Loss, Params]:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    x = torch.randn(4, 2).double()
    return _of_module(module, lambda call: checkpoint(call, x, use_reentrant=False).pow(3).sum())


class Cube(torch.autograd.Function):
    """x³, whose backward is a Function too: neither has a rule for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = CubeBackward.apply(grad, x)
        return result


class CubeBackward(torch.autograd.Function):
    """Through NumPy, which no vmap follows."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(grad, x)
        return torch.from_numpy(3 * grad.numpy() * x.numpy() ** 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        first, x = ctx.saved_tensors
        g, values = grad.detach().numpy(), x.detach().numpy()
        return torch.from_numpy(3 * g * values**2), torch.from_numpy(6 * g * first.detach().numpy() * values)


LOSSES: Mapping[str, Callable[[], tuple[Loss, Params]]] = {
    build.__name__: build
    for build in (
        mlp,
        tied_weights,
        conv_group_norm,
        batch_norm,
        layer_norm,
        attention,
        lstm_cell,
        embedding,
        scalar_and_empty,
        piecewise_linear,
        checkpointed,
    )
}


def full_hessian(loss: Loss, params: Params) -> dict[str, dict[str, Tensor]]:
    """The oracle: torch.autograd.functional.hessian, by two names; without empty parameters, which it cannot take."""
    names = [name for name, tensor in params.items() if tensor.numel()]

    def of_tuple(*tensors: Tensor) -> Tensor:
        return loss({**params, **dict(zip(names, tensors, strict=True))})

    found: Any = torch.autograd.functional.hessian(of_tuple, tuple(params[name] for name in names))
    blocks = {i: {j: p.new_zeros((*p.shape, *q.shape)) for j, q in params.items()} for i, p in params.items()}
    for a, i in enumerate(names):
        for b, j in enumerate(names):
            blocks[i][j] = found[a][b]
    return blocks


def leaves(params: Params) -> Params:
    """The parameters as leaves that require grad."""
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in params.items()}


def diagonal_of(block: Tensor, shape: torch.Size) -> Tensor:
    """The diagonal of a block `[*shape, *shape]`."""
    return block.reshape(shape.numel(), shape.numel()).diagonal().reshape(shape)
