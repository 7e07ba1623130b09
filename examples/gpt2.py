"""The squared norm of GPT-2's gradient, differentiated: a double backward through a 12-layer transformer.

A penalty on the norm of the gradient of all parameters steers training to flat minima. Its own gradient is H g, so the
graph that `penalty.backward()` runs holds the forward, the backward, and an arrow from the second to the first wherever
the model is curved. The model has the parts and names of GPT-2, in plain torch, with a width of 96 instead of 768: the
graph is the same. Nothing here knows of gradgraph.

    gradgraph render examples/gpt2.py --depth 2 --expand model.h -o gpt2.svg
"""

import torch
from torch import Tensor, nn
from torch.autograd import grad


class Attention(nn.Module):
    """Causal self-attention, written out: the fused kernels cannot be differentiated twice."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        return self.c_proj((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """Tokens [batch, length] to logits [batch, length, vocabulary]; the head's weight is the embedding's."""

    def __init__(self, layers: int = 12, width: int = 96, heads: int = 12, vocabulary: int = 512) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(64, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def make_model(**sizes: int) -> GPT2:
    torch.manual_seed(0)
    return GPT2(**sizes)


def loss_of(model: nn.Module, length: int = 16) -> Tensor:
    """The loss of predicting each next token of a counting sequence."""
    tokens = torch.arange(length + 1).unsqueeze(0)
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def squared_gradient_norm(loss: Tensor, model: nn.Module) -> Tensor:
    gradients = grad(loss, list(model.parameters()), create_graph=True)
    return sum(gradient.pow(2).sum() for gradient in gradients)


if __name__ == "__main__":
    model = make_model()
    loss = loss_of(model)
    penalty = squared_gradient_norm(loss, model)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    print(f"loss {loss.item():.4f}, that of guessing {torch.log(torch.tensor(512.0)).item():.4f}")
    print(f"squared gradient norm {penalty.item():.4f}")

    penalty.backward()
    norms = torch.stack([block.attn.c_attn.weight.grad.norm() for block in model.h])
    print("norm of 2 H g at each block's c_attn.weight:", [round(norm, 3) for norm in norms.tolist()])
