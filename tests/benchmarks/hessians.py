"""The losses whose Hessians are measured, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PROGRAMS", "Program"]


@dataclass
class Program:
    """A model, a loss of its output, and what goes in.

    Attributes:
        criterion: a module, as BackPACK needs it.
        whole_loop: whether one pass per entry ends within seconds; else a sample of rows is measured.
        backpack: whether BackPACK's DiagHessian takes it.
    """

    model: nn.Module
    criterion: nn.Module
    x: Tensor
    y: Tensor
    whole_loop: bool = True
    backpack: bool = True

    def loss(self) -> Tensor:
        result: Tensor = self.criterion(self.model(self.x), self.y)
        return result

    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    def entries(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with tanh between them."""
    layers: list[nn.Module] = []
    for inner, outer in itertools.pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def small() -> Program:
    x = torch.randn(1000, 1, dtype=torch.float64)
    return Program(perceptron(1, 10, 10, 1), nn.MSELoss(), x, torch.sin(3 * x))


def middle() -> Program:
    x, y = torch.randn(128, 20, dtype=torch.float64), torch.randn(128, 1, dtype=torch.float64)
    return Program(perceptron(20, 64, 64, 1), nn.MSELoss(), x, y)


def convolutions() -> Program:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    x = torch.randn(16, 3, 8, 8, dtype=torch.float64)
    return Program(model.double(), nn.CrossEntropyLoss(), x, torch.randint(0, 10, (16,)))


class Residual(nn.Module):
    """x + Linear(GELU(Linear(LayerNorm(x))))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.inner(x)
        return result


def residual() -> Program:
    model = nn.Sequential(nn.Linear(20, 32), Residual(32, 128), Residual(32, 128), nn.Linear(32, 1))
    x, y = torch.randn(32, 20, dtype=torch.float64), torch.randn(32, 1, dtype=torch.float64)
    return Program(model.double(), nn.MSELoss(), x, y, backpack=False)


def wide() -> Program:
    x = torch.randn(128, 64, dtype=torch.float64)
    y = torch.randint(0, 10, (128,))
    return Program(perceptron(64, 256, 256, 10), nn.CrossEntropyLoss(), x, y, whole_loop=False)


class Logits(nn.Module):
    """GPT-2's logits of the next token, `[samples * (tokens - 1), vocabulary]`."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(vocab_size=128, n_positions=16, n_embd=64, n_layer=2, n_head=4, bos_token_id=0)
        config.eos_token_id = 0
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
        self.gpt2: Any = GPT2LMHeadModel(config)
        self.gpt2.set_attn_implementation("eager")  # the fused kernels cannot be differentiated twice

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.gpt2(tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
        return result


def gpt2() -> Program:
    tokens = torch.randint(0, 128, (4, 16))
    y = tokens[:, 1:].flatten()
    return Program(Logits().double(), nn.CrossEntropyLoss(), tokens, y, whole_loop=False, backpack=False)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "MLP 1-10-10-1, N 1000": small,
    "MLP 20-64-64-1, N 128": middle,
    "conv net, N 16": convolutions,
    "residual, LayerNorm, GELU, N 32": residual,
    "MLP 64-256-256-10, N 128": wide,
    "GPT-2, 2 layers of width 64, 4 × 16 tokens": gpt2,
}
