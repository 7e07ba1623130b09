"""Stale gradients: a second-order result read from `W.grad` that was five first-order gradients.

A ReLU net on squared inputs. Its author differentiated twice with respect to the input, looked at the rows twice, then
asked for a double backward through the first weight, `(gW**2).sum().backward()`, and read -1.0688 and 1.6595 off
`W.grad`. That last pass had added exactly 0. What stood there was left over from the passes about the input:
`backward` adds to every leaf it can reach, wanted or not. The ledger of `gradgraph.watch` shows who added what.
The whole story: docs/stale-gradients.md.

    gradgraph render examples/relu_on_squares.py:penalty --gradients -o relu_on_squares.png
"""

import torch
from torch import Tensor, nn
from torch.autograd import grad

import gradgraph


def make_net() -> nn.Sequential:
    """Linear(2, 5), ReLU, Linear(5, 1). Units 0 and 3 are active at [1, 1], the others are off."""
    net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.5, 0.6], [-0.4, -0.3], [-0.6, 0.1], [0.1855, 0.2853], [0.2, -0.7]]))
        net[0].bias.copy_(torch.tensor([0.1, 0.2, 0.3, -0.2, 0.1]))
        net[2].weight.copy_(torch.tensor([[-0.21376, 0.4, -0.1, 0.3319, 0.2]]))
        net[2].bias.copy_(torch.tensor([0.3]))
    return net


def show(what: str, value: Tensor) -> None:
    print(f"{what}: {[[round(entry, 4) for entry in row] for row in torch.atleast_2d(value).tolist()]}")


def through_relu(value: Tensor, f: Tensor) -> float:
    """The largest gradient that a backward pass from `value` sends into the forward's ReLU."""
    graph = gradgraph.trace(value, lower=[f])
    (relu,) = (node for node, op in graph.nodes(data="op") if op == "ReluBackward0")
    return gradgraph.gradients(graph)[relu].max_abs


if __name__ == "__main__":
    net = make_net()
    W = net[0].weight
    x = torch.ones(2, requires_grad=True)

    with gradgraph.watch({"x": x, **dict(net.named_parameters())}) as ledger:
        f = net(x**2)
        f.backward(retain_graph=True)
        show("x.grad, the gradient of the input", x.grad)

        # One row of the input's Hessian per pass. The author ran this loop twice.
        (gx,) = grad(f, x, create_graph=True)
        for run in (1, 2):
            x.grad.zero_()
            for i in range(2):
                gx[i].backward(retain_graph=True)
                show(f"x.grad, run {run}, after row {i}", x.grad)

        # The double backward through the weight, and the number that was believed.
        (gW,) = grad(f, W, create_graph=True)  # noqa: N816
        before = W.grad.clone()
        penalty = (gW**2).sum()
        penalty.backward(retain_graph=True)
        show("W.grad", W.grad)

    show("gW", gW.detach())
    show("5 gW", 5 * gW.detach())
    print("what the double backward added to W.grad:", (W.grad - before).abs().max().item())
    print("the same asked for alone, by grad(penalty, W):", grad(penalty, W, retain_graph=True)[0].abs().max().item())
    print("what it sends through the ReLU:", through_relu(penalty, f))
    print("what the rows of the input's Hessian send through it:", through_relu(gx[0], f), through_relu(gx[1], f))
    print(ledger.table())
