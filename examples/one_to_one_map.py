"""A net from one number to one number, with its first and second derivative.

`f = net(x) + 0 * x**2`: people add such a term to make sure that a second derivative exists. This net has a sigmoid
and is curved anyway. The gradients of the picture show what the term does: exactly nothing arrives at `x**2`.

    gradgraph render examples/one_to_one_map.py:f --gradients -o one_to_one_map.png
"""

import torch
from torch import Tensor, nn
from torch.autograd import grad

import gradgraph


def make_net() -> nn.Sequential:
    """Linear(1, 2), Sigmoid, Linear(2, 1), with fixed weights."""
    net = nn.Sequential(nn.Linear(1, 2), nn.Sigmoid(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.3677], [-0.9834]]))
        net[0].bias.copy_(torch.tensor([0.6622, 0.8933]))
        net[2].weight.copy_(torch.tensor([[0.3594, 0.3605]]))
        net[2].bias.copy_(torch.tensor([0.1341]))
    return net


def evaluate(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f, f' and f'' at every element of the column x."""
    f = net(x) + 0 * x**2
    # No element of f depends on another's x, so the gradient of the sum holds the derivative of each.
    (first,) = grad(f.sum(), x, create_graph=True)
    (second,) = grad(first.sum(), x, retain_graph=True)
    return f, first, second


def report(x: Tensor, *values: Tensor) -> None:
    for at, f, first, second in zip(x, *values, strict=True):
        print(f"at {at.item():g}: f = {f.item():.4f}  f' = {first.item():.4f}  f'' = {second.item():.4f}")


if __name__ == "__main__":
    net = make_net()
    x = torch.tensor([[2.0]], requires_grad=True)
    f, first, second = evaluate(net, x)
    report(x, f, first, second)

    print("two points at once:")
    both = torch.tensor([[1.0], [2.0]], requires_grad=True)
    report(both, *evaluate(net, both))

    graph = gradgraph.trace(f, net)
    (square,) = (node for node, op in graph.nodes(data="op") if op == "PowBackward0")
    print("largest gradient that arrives at x**2:", gradgraph.gradients(graph)[square].max_abs)
