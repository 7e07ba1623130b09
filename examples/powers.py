"""x^4 differentiated three times: one graph that holds four orders.

Each `grad(..., create_graph=True)` runs the last result's graph backwards and records a new graph meanwhile. The new
one ends in the old ones, wherever a backward formula used a value of theirs: the dashed curvature edges. The colours
tell the orders apart: 0 is the power itself, k what was made by differentiating order k - 1.

x^4 is written as a square squared, so that there is a value in between to use. `x**4` is a single node, and its
derivatives share nothing with it but x.

    gradgraph render examples/powers.py:f3 -o powers.png
"""

import torch
from torch import Tensor
from torch.autograd import grad

import gradgraph


def derivatives(x: Tensor, count: int) -> list[Tensor]:
    """x^4 and its first `count` derivatives at x, each with the graph that it came from."""
    values = [(x**2) ** 2]
    for _ in range(count):
        values.extend(grad(values[-1], x, create_graph=True))
    return values


if __name__ == "__main__":
    x = torch.tensor(1.0, requires_grad=True)
    f, f1, f2, f3 = derivatives(x, 3)
    print(f"f = {f.item():g}, f' = {f1.item():g}, f'' = {f2.item():g}, f''' = {f3.item():g}")

    # The results of the lower orders tell `trace` where one order ends and the next begins.
    graph = gradgraph.trace(f3, lower=[f, f1, f2])
    for order, nodes in graph.by_order().items():
        print(f"order {order}: {len(nodes)} nodes")
    curvature = [edge for *edge, role in graph.edges(data="role") if role == "curvature"]
    print(f"edges back to a lower order: {len(curvature)}")
