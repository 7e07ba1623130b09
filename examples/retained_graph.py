"""Three backward passes over one graph, and what each of them added to `.grad`.

`retain_graph=True` keeps what the graph saved, so that `backward` may run again. It does not mean that `.grad` starts
anew: every pass adds to it. The ledger of `gradgraph.watch` lists each pass's contribution beside the running total,
and notes the zeroing in between.

    gradgraph render examples/retained_graph.py -o retained_graph.png
"""

import torch
from torch import Tensor

import gradgraph


def square_plus_one(inp: Tensor) -> Tensor:
    """(inp + 1)^2, transposed."""
    return (inp + 1).pow(2).t()


def three_passes(inp: Tensor) -> tuple[list[Tensor], gradgraph.Ledger]:
    """`.grad` after each of three backward passes (zeroed before the third), and the ledger of them."""
    out = square_plus_one(inp)
    seen = []
    with gradgraph.watch({"inp": inp}) as ledger:
        for number in (1, 2, 3):
            if number == 3:
                inp.grad.zero_()
            out.backward(torch.ones_like(out), retain_graph=True)
            seen.append(inp.grad.clone())
    return seen, ledger


def described(value: Tensor) -> str:
    return f"{value[0, 0].item():g} on the diagonal, {value[0, 1].item():g} elsewhere"


if __name__ == "__main__":
    inp = torch.eye(4, 5, requires_grad=True)
    seen, ledger = three_passes(inp)
    for number, value in enumerate(seen, start=1):
        print(f"pass {number} added {described(ledger.contribution('inp', number))}")
        print(f"  .grad is now {described(value)}")
    print(ledger.table())
