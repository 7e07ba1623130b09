"""The graphs that are measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["chain", "gpt2", "gpt2_double_backward", "mlp_loss"]


def chain(length: int) -> Tensor:
    """A product of `length` factors, every one the same scalar."""
    w = torch.ones((), requires_grad=True)
    y = w.clone()
    for _ in range(length):
        y = y * w
    return y


def gpt2() -> tuple[nn.Module, Tensor]:
    """GPT-2 of 12 layers with random weights, and its language-model loss on 16 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model: Any = GPT2LMHeadModel(config)
    model.set_attn_implementation("eager")  # the fused kernels cannot be differentiated twice
    tokens = torch.randint(0, config.vocab_size, (1, 16))
    return model, model(tokens, labels=tokens).loss


def gpt2_double_backward() -> tuple[nn.Module, Tensor, Tensor]:
    """The same, and the squared norm of the gradient of all parameters."""
    model, loss = gpt2()
    grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    return model, loss, torch.stack([(grad**2).sum() for grad in grads]).sum()


def mlp_loss() -> tuple[nn.Module, Tensor]:
    """An MLP 20-64-64-1 on 128 samples in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)).double()
    x, y = torch.randn(128, 20, dtype=torch.float64), torch.randn(128, 1, dtype=torch.float64)
    return model, nn.functional.mse_loss(model(x), y)
