"""An LSTM over 200 steps, differentiated twice through all of time.

One cell is called 200 times, so the graph is 200 copies of the cell's operations that share four parameters, and a
double backward has each of them again, mirrored. The task: from two channels, a number and a mark, remember the two
marked numbers and add them (Hochreiter and Schmidhuber's adding problem). The penalty is the squared norm of the
gradient by the parameters, nothing is truncated or detached.

    gradgraph render examples/lstm.py -o lstm.svg
"""

import torch
from torch import Tensor, nn
from torch.autograd import grad


class Adder(nn.Module):
    """Sequences [length, batch, 2] to one number each [batch]."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(2, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, sequence: Tensor) -> Tensor:
        h = c = sequence.new_zeros(sequence.shape[1], self.cell.hidden_size)
        for step in sequence:
            h, c = self.cell(step, (h, c))
        return self.out(h).squeeze(1)


def make_model(hidden: int = 32) -> Adder:
    torch.manual_seed(0)
    model = Adder(hidden)
    with torch.no_grad():
        model.cell.bias_ih[hidden : 2 * hidden] += 3  # a forget gate that starts open remembers for longer
    return model


def batch(length: int = 200, count: int = 4) -> tuple[Tensor, Tensor]:
    """Numbers and marks [length, count, 2], and the sums [count] of the two marked numbers of each."""
    generator = torch.Generator().manual_seed(1)
    numbers = torch.rand(length, count, generator=generator)
    marks = torch.zeros(length, count)
    for column in range(count):
        marks[torch.randperm(length, generator=generator)[:2], column] = 1
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(0)


def losses(model: nn.Module, sequence: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the squared norm of its gradient by all parameters."""
    loss = (model(sequence) - sums).pow(2).mean()
    gradients = grad(loss, list(model.parameters()), create_graph=True)
    return loss, sum(gradient.pow(2).sum() for gradient in gradients)


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small, sharing the work out takes longer than doing it
    model = make_model()
    loss, penalty = losses(model, *batch())
    print(f"loss {loss.item():.4f}, squared gradient norm {penalty.item():.4f}")

    (loss + 0.1 * penalty).backward()
    for name, parameter in model.named_parameters():
        print(f"gradient norm at {name}: {parameter.grad.norm().item():.4f}")
