"""Two linear layers in a row: one node that goes by two names.

Shows what `grad_fn` and `next_functions` are. The output of the first layer, `o1`, is made by a node that Python calls
`o1.grad_fn`. The second layer's node calls the very same object `next_functions[1][0]`. In the traced graph it is one
node, and it may carry both names.

    gradgraph render examples/chained_linears.py:graph -o chained_linears.png
"""

import torch
from torch import Tensor, nn

import gradgraph


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    """A linear layer with these numbers in it."""
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def chain() -> tuple[nn.Linear, nn.Linear, Tensor, Tensor]:
    """The two layers, and what each gives for [[1, 2, 3]] (data: it needs no gradient)."""
    w1 = linear([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]], [0.1, 0.2, 0.3])
    w2 = linear([[1.0, 0.0, -1.0], [0.5, 0.5, 0.5], [0.0, 2.0, 0.0]], [0.0, 1.0, 0.0])
    a = torch.tensor([[1.0, 2.0, 3.0]])
    o1 = w1(a)
    o2 = w2(o1)
    return w1, w2, o1, o2


if __name__ == "__main__":
    w1, w2, o1, o2 = chain()
    print("o2 =", [round(value, 4) for value in o2[0].tolist()])

    # next_functions has one slot for each input of the addmm: bias, data, transposed weight.
    (bias, _), (data, _), (weight, _) = o2.grad_fn.next_functions
    print("slot 0:", bias.name(), "of w2.bias:", bias.variable is w2.bias)
    print("slot 1:", data.name(), "is o1.grad_fn:", data is o1.grad_fn)
    print("slot 2:", weight.name(), "of w2.weight:", weight.next_functions[0][0].variable is w2.weight)

    # Traced from both outputs at once, o1's node still stands there once, under both of its names.
    graph = gradgraph.trace([o2, o1], {"w1": w1, "w2": w2}, names={"o2": o2, "o1": o1, "input 1 of o2": o1})
    print(f"{len(graph)} nodes, {graph.number_of_edges()} edges")
    print(f"node {graph.roots[1]} is called {graph.nodes[graph.roots[1]]['name']!r}")
