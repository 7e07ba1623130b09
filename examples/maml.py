"""MAML: learn an initialisation by differentiating through 10 steps of training.

From the initialisation, 10 gradient steps on five points of a sine wave; then the loss on other points of the same
wave, differentiated by the initialisation. Each inner step is made with `create_graph=True`, so the outer pass runs
through 10 backward passes. A fast weight is a plain tensor, and `functional_call` runs the net with it. (With
`create_graph=False`, first-order MAML, the same outer gradient lacks every term with a Hessian.)

    gradgraph render examples/maml.py -o maml.svg
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call

STEPS, RATE = 10, 0.05


def make_net(width: int = 40) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))


def wave(count: int, amplitude: float = 2.0, phase: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`count` points of one task: x in [-5, 5] and amplitude * sin(x + phase), both [count, 1]."""
    x = 10 * torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) - 5
    return x, amplitude * torch.sin(x + phase)


def mse(net: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return (functional_call(net, weights, (x,)) - y).pow(2).mean()


def adapt(
    net: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor, second_order: bool = True
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The fast weights after `STEPS` steps of gradient descent, and the loss before each."""
    inner = []
    for _ in range(STEPS):
        inner.append(mse(net, weights, x, y))
        gradients = grad(inner[-1], list(weights.values()), create_graph=second_order)
        weights = {
            name: weight - RATE * gradient for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }
    return weights, inner


def meta_loss(net: nn.Module, second_order: bool = True) -> tuple[Tensor, list[Tensor]]:
    """The loss on 10 new points after adapting to 5; and the inner losses."""
    weights, inner = adapt(net, dict(net.named_parameters()), *wave(5), second_order)
    return mse(net, weights, *wave(10, seed=1)), inner


def gradient_of(net: nn.Module, second_order: bool) -> Tensor:
    """The outer gradient in one vector."""
    loss, _ = meta_loss(net, second_order)
    return torch.cat([gradient.flatten() for gradient in grad(loss, list(net.parameters()))])


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small, sharing the work out takes longer than doing it
    net = make_net()
    first, second = gradient_of(net, second_order=False), gradient_of(net, second_order=True)
    angle = math.degrees(math.acos(first.dot(second) / first.norm() / second.norm()))
    print(f"norm of the meta-gradient {second.norm().item():.4f}, without second order {first.norm().item():.4f}")
    print(f"angle between the two: {angle:.1f} degrees")

    loss, inner = meta_loss(net)
    print(f"loss on five points, before each step: {[round(value.item(), 3) for value in inner]}")
    print(f"loss on ten new points, after the last: {loss.item():.4f}")
    loss.backward()
