"""Embeddings and indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.curvature.corpus.build import Build, Built, Params, named, of_module, randn

TOKENS = torch.tensor([[0, 1, 1], [3, 1, 0]])


def embedding_repeated() -> Built:
    module = nn.Sequential(nn.Embedding(5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 1))
    return of_module(module, lambda call: call(TOKENS).square().sum())


def embedding_padded() -> Built:
    module = nn.Sequential(nn.Embedding(5, 2, padding_idx=1), nn.Tanh(), nn.Flatten(), nn.Linear(6, 1))
    return of_module(module, lambda call: call(TOKENS).exp().sum())


def embedding_padded_by_another() -> Built:
    """The padding row is used, and gets no gradient; a copy of the table does."""
    params = {"table": randn(4, 2)}

    def loss(p: Params) -> Tensor:
        rows = functional.embedding(TOKENS, p["table"], padding_idx=0)
        return rows.exp().sum() + (p["table"][0] ** 3).sum()

    return loss, params


def embedding_bag() -> Built:
    """As nn.EmbeddingBag, whose own backward cannot be differentiated."""
    params = {"table": randn(4, 2), "weights": randn(2, 3)}

    def loss(p: Params) -> Tensor:
        bags = (functional.embedding(TOKENS, p["table"]) * p["weights"].softmax(1)[..., None]).sum(1)
        return bags.exp().mean()

    return loss, params


def embedding_scaled_by_frequency() -> Built:
    """What torch calls its gradient is divided by how often a row is used."""
    params = {"table": randn(4, 2)}

    def loss(p: Params) -> Tensor:
        rows = functional.embedding(TOKENS, p["table"], scale_grad_by_freq=True)
        return rows.sum(-1).exp().mean()

    return loss, params


def embedding_pooled() -> Built:
    module = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    return of_module(module, lambda call: functional.cross_entropy(call(TOKENS).mean(1), torch.tensor([0, 1])))


class Tied(nn.Module):
    """Embedding and output head are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.middle = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Any:
        return self.head(torch.tanh(self.middle(self.embed(tokens))))


def tied_head() -> Built:
    return of_module(
        Tied(), lambda call: functional.cross_entropy(call(TOKENS[:, :-1]).flatten(0, 1), TOKENS[:, 1:].flatten())
    )


def skip_gram() -> Built:
    """Products of two tables' rows."""
    params = {"center": randn(4, 2), "context": randn(4, 2)}
    first, second = torch.tensor([0, 1, 1, 3]), torch.tensor([1, 2, 2, 0])

    def loss(p: Params) -> Tensor:
        return -functional.logsigmoid((p["center"][first] * p["context"][second]).sum(1)).mean()

    return loss, params


def rows_repeated() -> Built:
    """A sample that is taken twice, after the layer."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x, index = randn(4, 2), torch.tensor([0, 2, 2, 3])
    return of_module(module, lambda call: call(x).index_select(0, index).exp().mean())


def rows_repeated_and_paired() -> Built:
    """The repeats meet other samples."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x, left, right = randn(4, 2), torch.tensor([0, 2, 2, 3]), torch.tensor([1, 2, 0, 3])

    def forward(call: Callable[..., Any]) -> Any:
        out = call(x)
        return (out[left] * out[right]).sum(1).exp().mean()

    return of_module(module, forward)


def rows_masked() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x, mask = randn(5, 2), torch.tensor([True, False, True, True, False])
    return of_module(module, lambda call: call(x)[mask].exp().mean())


def rows_sliced() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x = randn(5, 2)
    return of_module(module, lambda call: call(x)[1:4:2].exp().mean())


def rows_ignored() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3))
    x, y = randn(5, 2), torch.tensor([0, -100, 2, 1, -100])
    return of_module(module, lambda call: functional.cross_entropy(call(x), y))


def gathered() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3))
    x, index = randn(4, 2), torch.tensor([[0, 0], [1, 2], [2, 2], [1, 0]])
    return of_module(module, lambda call: call(x).gather(1, index).exp().prod(1).sum())


def scattered() -> Built:
    """Messages added over the edges of a small graph: a GNN."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x, source, target = randn(4, 2), torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 1, 3, 0, 3])

    def forward(call: Callable[..., Any]) -> Any:
        out = call(x)
        return torch.zeros_like(out).index_add(0, target, out[source]).exp().mean()

    return of_module(module, forward)


def selected_weights() -> Built:
    """An expert a sample, picked by an index into stacked weights."""
    params = {"experts": randn(3, 2, 2), "bias": randn(3, 2)}
    x, which = randn(4, 2), torch.tensor([0, 2, 2, 1])

    def loss(p: Params) -> Tensor:
        out = torch.baddbmm(p["bias"][which].unsqueeze(1), x.unsqueeze(1), p["experts"][which])
        return out.tanh().exp().mean()

    return loss, params


CASES: Mapping[str, Build] = named(
    embedding_repeated,
    embedding_padded,
    embedding_padded_by_another,
    embedding_bag,
    embedding_scaled_by_frequency,
    embedding_pooled,
    tied_head,
    skip_gram,
    rows_repeated,
    rows_repeated_and_paired,
    rows_masked,
    rows_sliced,
    rows_ignored,
    gathered,
    scattered,
    selected_weights,
)
