"""The graphs that are measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MODELS", "chain", "gpt2", "gpt2_double_backward", "loop", "mlp_loss", "plain_gpt2"]

#: A model, and what is differentiated last.
Built = tuple[nn.Module, Tensor]


def chain(length: int) -> Tensor:
    """A product of `length` factors, every one the same scalar."""
    w = torch.ones((), requires_grad=True)
    y = w.clone()
    for _ in range(length):
        y = y * w
    return y


def loop(steps: int) -> Tensor:
    """A scalar recurrence, two operations a step: h ← sin(h w)."""
    w = torch.ones((), requires_grad=True)
    h = w
    for _ in range(steps):
        h = (h * w).sin()
    return h


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


def _example(name: str) -> Any:
    return import_module(f"examples.{name}")


def _gpt2() -> Built:
    model, _, penalty = gpt2_double_backward()
    return model, penalty


def plain_gpt2(layers: int = 12) -> Built:
    example = _example("gpt2")
    model = example.make_model(layers=layers)
    return model, example.squared_gradient_norm(example.loss_of(model), model)


def _penalised(name: str, weight: float, *, losses: str = "losses") -> Built:
    """An example's model, and its loss with `weight` times the penalty on its gradient."""
    example = _example(name)
    model = example.make_model()
    loss, penalty = getattr(example, losses)(model, *example.batch())
    return model, loss + weight * penalty


def _maml() -> Built:
    example = _example("maml")
    net = example.make_net()
    return net, example.meta_loss(net)[0]


def _wgan_gp() -> Built:
    example = _example("wgan_gp")
    generator, critic = example.make_nets()
    return critic, example.critic_loss(generator, critic)[0]


def _kdv_pinn() -> Built:
    example = _example("kdv_pinn")
    net = example.make_net()
    return net, example.pinn_loss(net, example.points())


#: Programs with a double backward, those of examples/ and the GPT-2 of transformers.
MODELS: dict[str, Callable[[], Built]] = {
    "WGAN-GP": _wgan_gp,
    "KdV PINN, third derivatives": _kdv_pinn,
    "MAML, 10 inner steps": _maml,
    "ResNet-50": partial(_penalised, "resnet50", 0.01),
    "ViT, 12 blocks": partial(_penalised, "vit", 1.0, losses="double_backpropagation"),
    "GPT-2, 12 layers (examples/gpt2.py)": plain_gpt2,
    "GPT-2, 12 layers (transformers)": _gpt2,
    "LSTM, 200 steps": partial(_penalised, "lstm", 0.1),
}
