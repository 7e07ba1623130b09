"""Attention, packed and separate, and GPT-2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.curvature.corpus.build import Build, Built, named, of_module, randn


def _on_math(forward: Callable[[Callable[..., Any]], Any]) -> Callable[[Callable[..., Any]], Any]:
    """The one backend of scaled_dot_product_attention that can be differentiated twice."""

    def inner(call: Callable[..., Any]) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return forward(call)

    return inner


def attention_packed() -> Built:
    module = nn.MultiheadAttention(4, 2, batch_first=True)
    x = randn(2, 3, 4)
    return of_module(module, _on_math(lambda call: call(x, x, x)[0].pow(2).sum()))


def attention_packed_time_major() -> Built:
    module = nn.MultiheadAttention(4, 2)
    x = randn(3, 2, 4)
    return of_module(module, _on_math(lambda call: call(x, x, x, need_weights=False)[0].pow(3).sum()))


def attention_packed_causal() -> Built:
    module = nn.MultiheadAttention(4, 2, batch_first=True)
    x, mask = randn(2, 3, 4), nn.Transformer.generate_square_subsequent_mask(3).double()
    return of_module(
        module,
        _on_math(lambda call: call(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0].exp().sum()),
    )


def cross_attention() -> Built:
    """Key and value of other widths: three projections of their own."""
    module = nn.MultiheadAttention(4, 2, kdim=3, vdim=2, batch_first=True)
    q, k, v = randn(2, 2, 4), randn(2, 3, 3), randn(2, 3, 2)
    return of_module(module, _on_math(lambda call: call(q, k, v)[0].exp().sum()))


class Attention(nn.Module):
    """Multi-head attention of four Linears, with or without a causal mask."""

    def __init__(self, width: int, heads: int, *, causal: bool, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.causal, self.fused = heads, causal, fused
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        if self.fused:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
            if self.causal:
                allowed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
                scores = scores.masked_fill(~allowed, float("-inf"))
            mixed = scores.softmax(-1) @ v
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape))
        return result


def attention_separate() -> Built:
    x = randn(2, 3, 4)
    return of_module(Attention(4, 2, causal=False), lambda call: call(x).pow(2).sum())


def attention_causal() -> Built:
    x = randn(2, 3, 4)
    return of_module(Attention(4, 2, causal=True), lambda call: call(x).exp().mean())


def attention_fused() -> Built:
    x = randn(2, 3, 4)
    return of_module(Attention(4, 1, causal=True, fused=True), _on_math(lambda call: call(x).exp().mean()))


def attention_over_the_batch() -> Built:
    """Samples attend to one another: axis 0 is the sequence."""
    module = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])
    wrapped = _Triple(module)
    x = randn(4, 3)
    return of_module(wrapped, lambda call: call(x).pow(2).sum())


class _Triple(nn.Module):
    def __init__(self, parts: nn.ModuleList) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x) for part in self.parts)
        result: Tensor = (q @ k.t()).softmax(-1) @ v
        return result


class TransformerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(4), nn.LayerNorm(4)
        self.attention = Attention(4, 2, causal=True)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        result: Tensor = x + self.down(functional.gelu(self.up(self.after(x))))
        return result


def transformer_block() -> Built:
    x = randn(2, 3, 4)
    return of_module(TransformerBlock(), lambda call: call(x).square().mean())


def encoder_layer() -> Built:
    module = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, activation="gelu", batch_first=True)
    x = randn(2, 2, 4)
    return of_module(module, _on_math(lambda call: call(x).exp().mean()))


def class_token_and_positions() -> Built:
    """Learned tokens that are expanded over the batch, as in a ViT."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls = nn.Parameter(torch.randn(1, 1, 4))
            self.positions = nn.Parameter(torch.randn(1, 3, 4))
            self.attention = Attention(4, 2, causal=False)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.positions
            result: Tensor = self.attention(x)[:, 0]
            return result

    x = randn(2, 2, 4)
    return of_module(Tokens(), lambda call: call(x).exp().sum())


def gpt2() -> Built:
    """2 layers of width 8 on 2 sequences of 4 tokens out of 11; embedding and head are tied."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=11, n_positions=4, n_embd=8, n_layer=2, n_head=2, n_inner=8, bos_token_id=0, eos_token_id=0
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    model: Any = GPT2LMHeadModel(config)
    model.set_attn_implementation("eager")  # the fused kernels cannot be differentiated twice
    tokens = torch.randint(0, 11, (2, 4))

    def forward(call: Callable[..., Any]) -> Tensor:
        logits = call(tokens, use_cache=False).logits  # its own loss would be taken in float32
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    return of_module(model, forward)


CASES: Mapping[str, Build] = named(
    attention_packed,
    attention_packed_time_major,
    attention_packed_causal,
    cross_attention,
    attention_separate,
    attention_causal,
    attention_fused,
    attention_over_the_batch,
    transformer_block,
    encoder_layer,
    class_token_and_positions,
    gpt2,
)
