"""2x^3 at -2, order after order, read from `.grad`.

Its derivatives are 24, -24, 12 and 0. Read from `.grad` without zeroing it, they come out as 24, 0, 12, 12: each pass
adds. The ledger keeps the two apart.

The fourth is worth a second look. 12 is a constant, so by rights there is nothing left to differentiate; that the pass
runs at all is luck. `x**3` leaves `x**0` behind, whose derivative autograd computes, and gets zero. Written as
`2 * x * x * x`, the same third derivative has no graph, and the same fourth pass raises.

    gradgraph render examples/orders_of_a_cubic.py:third -o orders_of_a_cubic.png
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import grad

import gradgraph


def by_power(x: Tensor) -> Tensor:
    return 2 * x**3


def by_products(x: Tensor) -> Tensor:
    return 2 * x * x * x


def derivative(cubic: Callable[[Tensor], Tensor], x: Tensor, order: int) -> Tensor:
    """The derivative of that order, with a graph of its own where autograd made one."""
    value = cubic(x)
    for _ in range(order):
        (value,) = grad(value, x, create_graph=True)
    return value


def read_from_grad(x: Tensor) -> tuple[list[float], gradgraph.Ledger]:
    """`x.grad`, never zeroed, after a backward pass from each of the derivatives 0 to 3; and the ledger."""
    values = [derivative(by_power, x, order) for order in range(4)]
    seen = []
    with gradgraph.watch({"x": x}) as ledger:
        for value in values:
            value.backward(retain_graph=True)
            seen.append(x.grad.item())
    return seen, ledger


if __name__ == "__main__":
    x = torch.tensor(-2.0, requires_grad=True)
    seen, ledger = read_from_grad(x)
    print("f:", by_power(x).item())
    print("what each pass added:   ", [entry.contribution.item() for entry in ledger["x"]])
    print(".grad, never zeroed:    ", seen)
    print(ledger.table())

    third = derivative(by_power, x, 3)
    print("f''' of 2 * x**3:     ", third.item(), "with a graph:", third.requires_grad)
    by_hand = derivative(by_products, x, 3)
    print("f''' of 2 * x * x * x:", by_hand.item(), "with a graph:", by_hand.requires_grad)
