"""A small net learns a wavy line; and what `create_graph=True` costs a training loop that has no use for it.

`fit` trains with Adam: its loss falls from about 190 to a few units, and `--plot FILE` draws target and prediction.
`descend` trains by plain gradient descent, once with `create_graph=True` and once without. The losses are the same to
the last digit (between the two runs; this descent is so near its limit of stability that another machine's rounding
gives other losses after some hundred steps). What the flag adds is a second graph per step that nobody reads.

    gradgraph render examples/curve_fit.py:training_step --gradients -o curve_fit.png
"""

import math
import sys
import time

import torch
from torch import Tensor, nn
from torch.autograd import grad

import gradgraph


def target(x: Tensor) -> Tensor:
    return 2 * x + 3 + 3 * torch.sin(x) * x.abs().sqrt() + torch.cos(x + 3)


def data(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """`count` points of [-10, 10] and the target there, both [count, 1]."""
    x = torch.linspace(-10, 10, count, dtype=dtype).unsqueeze(1)
    return x, target(x)


def make_net(width: int = 10, seed: int = 1, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """An MLP 1-width-width-1 with tanh, initialised as torch does, but from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
    for layer in net:
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return net.to(dtype)


def mse(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (net(x) - y).pow(2).mean()


def fit(net: nn.Module, epochs: int = 1000) -> list[float]:
    """Train on 100 points with Adam; the loss at every epoch."""
    x, y = data(100)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(epochs):
        loss = mse(net, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def training_step(epoch: int = 0) -> Tensor:
    """The loss of one training step: the first, or that after so many epochs."""
    net = make_net()
    fit(net, epoch)
    return mse(net, *data(100))


def descend(net: nn.Module, create_graph: bool, epochs: int = 801) -> list[float]:
    """Train on 1000 points by plain gradient descent; the loss at every epoch."""
    x, y = data(1000)
    parameters = list(net.parameters())
    losses = []
    for _ in range(epochs):
        loss = mse(net, x, y)
        gradients = grad(loss, parameters, create_graph=create_graph)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.01 * gradient
        losses.append(loss.item())
    return losses


def cost_of_a_step(create_graph: bool) -> tuple[int, int]:
    """Nodes of one step's graph, and the bytes that they keep alive."""
    net = make_net()
    loss = mse(net, *data(1000))
    gradients = grad(loss, list(net.parameters()), create_graph=True) if create_graph else ()
    graph = gradgraph.trace([loss, *gradients], net)
    return len(graph), sum(saved_bytes for _, saved_bytes in graph.nodes(data="saved_bytes"))


def plot(net: nn.Module, path: str) -> None:
    """Draw the target and what the net makes of it."""
    from matplotlib.figure import Figure

    x, y = data(100)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(x.squeeze(), y.squeeze(), label="target")
    axes.plot(x.squeeze(), net(x).detach().squeeze(), "--", label="prediction after 1000 epochs")
    axes.set_xlabel("x")
    axes.legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small, sharing the work out takes longer than doing it
    net = make_net()
    losses = fit(net)
    print("Adam, loss at epochs 0, 200, ..., 800:", [round(loss, 1) for loss in losses[::200]])
    if sys.argv[1:2] == ["--plot"]:
        plot(net, sys.argv[2])

    for create_graph in (False, True):
        begin = time.perf_counter()
        losses = descend(make_net(), create_graph)
        seconds = time.perf_counter() - begin
        nodes, saved_bytes = cost_of_a_step(create_graph)
        print(f"plain descent, create_graph={create_graph}:", [round(loss, 1) for loss in losses[::200]])
        print(f"  {nodes} nodes that keep {saved_bytes / 1000:.0f} kB alive in each step; took {seconds:.2f} s")
