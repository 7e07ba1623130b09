"""The diagonal of a Hessian by a loop of backward passes: the way that fails, and the way that works.

For every entry g[i] of the gradient, `g[i].backward(retain_graph=True)` adds row i of the Hessian to `.grad`. Reading
`.grad[i]` then gives the sum of all H[j, i] up to row i, and whatever was there before. What is wanted is what pass i
alone has added: the ledger of `gradgraph.watch` has it, and `hessian_diagonal(method="accumulate")` is that loop done
right. The other methods find the same numbers in fewer runs of the engine.

    gradgraph render examples/hessian_diagonal_loop.py:gradient -o hessian_diagonal_loop.png
"""

import torch
from curve_fit import data, make_net, mse
from torch import Tensor
from torch.autograd import grad

import gradgraph


def row_by_row(gradient: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
    """One pass for each entry i of the gradient. What `.grad[i]` then holds, and what pass i added to it."""
    parameter.grad = None
    read = []
    with gradgraph.watch({"parameter": parameter}) as ledger:
        for i, entry in enumerate(gradient.flatten()):
            entry.backward(retain_graph=True)
            read.append(parameter.grad.flatten()[i].item())
    added = [ledger.contribution("parameter", i + 1).flatten()[i].item() for i in range(gradient.numel())]
    return torch.tensor(read, dtype=gradient.dtype), torch.tensor(added, dtype=gradient.dtype)


def show(what: str, values: Tensor) -> None:
    print(f"{what:<24}", [round(value, 4) for value in values.flatten().tolist()])


if __name__ == "__main__":
    net = make_net(width=4, dtype=torch.float64)
    loss = mse(net, *data(100, torch.float64))
    bias = net[2].bias
    (gradient,) = grad(loss, bias, create_graph=True)
    read, added = row_by_row(gradient, bias)
    show(".grad[i] after pass i:", read)
    show("what pass i added:", added)

    accumulate = gradgraph.hessian_diagonal(loss, net, method="accumulate")
    batched = gradgraph.hessian_diagonal(loss, net, method="batched")
    show("accumulate:", accumulate["2.bias"])
    show("batched:", batched["2.bias"])
    agree = all(torch.allclose(accumulate[name], batched[name], rtol=1e-12, atol=1e-14) for name in accumulate)
    print("the two agree on every parameter:", agree)
