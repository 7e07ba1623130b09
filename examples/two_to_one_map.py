"""A function of two numbers, its gradient, and its Hessian row by row.

`y = linear(x) + sum(x**3)`. One `autograd.grad` for each entry of the gradient gives one row of the Hessian. The
linear part has no curvature, the cube has 6x: zero at x = 0, six at x = 1.

    gradgraph render examples/two_to_one_map.py:gradient -o two_to_one_map.png
"""

import torch
from torch import Tensor, nn
from torch.autograd import grad

import gradgraph


def make_linear() -> nn.Linear:
    """Linear(2, 1) with fixed weights."""
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.5596, 0.1991]]))
        linear.bias.copy_(torch.tensor([0.0408]))
    return linear


def value_and_gradient(linear: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """y, and dy/dx with a graph of its own."""
    y = linear(x).sum() + (x**3).sum()
    (gradient,) = grad(y, x, create_graph=True)
    return y, gradient


def hessian_rows(gradient: Tensor, x: Tensor) -> Tensor:
    """Row i is the derivative of entry i of the gradient."""
    return torch.stack([grad(entry, x, retain_graph=True)[0] for entry in gradient])


if __name__ == "__main__":
    linear = make_linear()
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    y, gradient = value_and_gradient(linear, x)
    print(f"y = {y.item():.4f}")
    print("gradient =", [round(value, 4) for value in gradient.tolist()])
    print("rows =", hessian_rows(gradient, x).tolist())
    print("diagonal =", gradgraph.hessian_diagonal(y, {"x": x})["x"].tolist())
