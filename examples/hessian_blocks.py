"""The diagonal of a Hessian is not its rows.

For every parameter of a small net: its block of the Hessian, the block's diagonal, and the rest. A program that stores
the rows one after the other has the whole block, however it calls it; the diagonal is one entry of each row.
`--plot FILE` draws the largest block as a heat map, its off-diagonal part beside it.

    gradgraph render examples/hessian_blocks.py:gradients -o hessian_blocks.svg
"""

import sys

import torch
from curve_fit import data, make_net, mse
from torch import Tensor, nn
from torch.autograd import grad

import gradgraph


def split(block: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal of a square block [n, n], and the block without it."""
    diagonal = block.diagonal()
    return diagonal, block - diagonal.diag()


def matrix_blocks(loss: Tensor, net: nn.Module) -> dict[str, Tensor]:
    """Each parameter's block of the Hessian, as a square matrix over its flattened entries."""
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    blocks = gradgraph.hessian(loss, net, blocks="parameter")
    return {name: block.reshape(sizes[name], sizes[name]) for name, block in blocks.items()}


def plot(name: str, block: Tensor, path: str) -> None:
    """Draw a block, and beside it what is left without its diagonal."""
    from matplotlib.figure import Figure

    _, off_diagonal = split(block)
    limit = block.abs().max().item()
    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes, values, title in zip(
        figure.subplots(1, 2), (block, off_diagonal), (f"block of {name}", "without its diagonal"), strict=True
    ):
        image = axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(title)
        axes.set_xticks(range(0, len(values), 4))
        axes.set_yticks(range(0, len(values), 4))
    figure.colorbar(image, ax=figure.axes)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    net = make_net(width=4, dtype=torch.float64)
    loss = mse(net, *data(100, torch.float64))
    blocks = matrix_blocks(loss, net)
    for name, block in blocks.items():
        diagonal, off_diagonal = split(block)
        print(
            f"{name}: block {list(block.shape)}, norm of the diagonal {diagonal.norm():.4f}, "
            f"of the rest {off_diagonal.norm():.4f}"
        )
    if sys.argv[1:2] == ["--plot"]:
        plot("2.weight", blocks["2.weight"], sys.argv[2])

    # What the rows are derivatives of: one gradient for each parameter, each with a graph.
    gradients = grad(loss, list(net.parameters()), create_graph=True)
