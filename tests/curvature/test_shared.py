"""Parameters that are used at several places: read off the graph wherever that takes fewer passes, and rightly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradgraph import HessianDiagonal, hessian_diagonal
from gradgraph.curvature.shared import Shared
from tests.curvature.cases import CASES
from tests.curvature.losses import leaves

SHARED = [
    *("tied_rnn", "tied_rnn_without_bias", "rnn_cell", "lstm_cell", "gru_cell", "rnn", "lstm", "lstm_both_ways", "gru"),
    *("truncated_rnn", "pinn", "wgan_gp", "conv_shared", "siamese", "two_losses_of_one_net", "twice_in_a_row"),
    "tied_head",
]
NOT_READ = ["twice_without_anything_between", "weight_and_its_transpose", "input_that_depends_on_the_weight", "maml"]


def shared(result: HessianDiagonal) -> set[str]:
    """The parameters that were read at several places."""
    words = ("places; a tangent", "table and head; a tangent")
    return {name for name, report in result.report.items() if any(word in report.reason for word in words)}


def assert_right(loss: Tensor, tensors: Any, **options: Any) -> HessianDiagonal:
    result = hessian_diagonal(loss, tensors, method="graph", progress=False, **options)
    expected = hessian_diagonal(loss, tensors, method="batched", progress=False)
    largest = max(float(values.abs().max()) for values in expected.values())
    for name, values in expected.items():
        allowed = max(1e-12 * float(values.abs().max()), 1e-14 * largest)
        assert float((result[name] - values).abs().max()) <= allowed, result.report[name]
    return result


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("name", SHARED)
def test_the_corpus(name: str, chunk_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # In small losses there is nothing to gain, so that rows would be taken instead.
    monkeypatch.setattr(Shared, "entries", property(lambda _: 10**9))
    loss, params = CASES[name]()
    tensors = leaves(params)
    assert shared(assert_right(loss(tensors), tensors, chunk_size=chunk_size))


@pytest.mark.parametrize("name", NOT_READ)
def test_what_cannot_be_read_is_computed_by_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shared, "entries", property(lambda _: 10**9))
    loss, params = CASES[name]()
    tensors = leaves(params)
    assert not shared(assert_right(loss(tensors), tensors))


def recurrent(cell: nn.Module, steps: int = 3) -> tuple[Callable[[], Tensor], nn.Module]:
    data, target = torch.randn(steps, 4, 5).double(), torch.randn(4, 10).double()

    def loss() -> Tensor:
        state: Any = None
        for one in data:
            state = cell(one, state)
        return functional.mse_loss(state[0] if isinstance(state, tuple) else state, target)

    return loss, cell


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_recurrent_nets_take_fewer_passes(kind: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    loss, cell = recurrent(kind(5, 10).double())
    result = assert_right(loss(), cell)
    assert "weight_hh" in shared(result)
    hidden = cell.weight_hh
    assert isinstance(hidden, Tensor)
    assert "at all 4 samples at once (proven" in result.report["weight_hh"].reason


@pytest.mark.parametrize("padding", [None, 3])
def test_a_language_model_with_one_table(padding: int | None) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(40, 6, padding_idx=padding).double()
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True).double()
    words = torch.tensor([[1, 3, 3, 0], [3, 1, 2, 39], [5, 5, 5, 5]])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hidden = layer(table(words))
    loss = functional.cross_entropy(functional.linear(hidden, table.weight).flatten(0, 1), words.roll(1, 1).flatten())
    result = assert_right(loss, {"table": table.weight, **dict(layer.named_parameters())})
    assert "table" in shared(result)


def test_reasons_say_why_rows_were_taken() -> None:
    torch.manual_seed(0)
    w, x, few = (torch.randn(3, 3, requires_grad=True) for _ in range(3))
    position = torch.randn(4, 3, requires_grad=True)
    tokens = torch.randn(5, 4, 3)

    def reason(loss: Tensor, tensor: Tensor) -> str:
        return assert_right(loss, {"it": tensor}).report["it"].reason

    mixed = torch.softmax((tokens + position).flatten(1) @ torch.randn(12, 12), 0)
    assert reason(mixed.square().sum(), position).startswith(
        "it enters through AddBackward0, [4, 3] broadcast to [5, 4, 3]: not along all axes but one; "
    )
    assert reason(((x @ w).tanh() @ w.t()).square().sum(), w).startswith("it is used at 2 places")
    assert reason((w.sum() * torch.matrix_exp(w)).sum(), w).startswith(
        "it is used at 2 places (SumBackward0, LinalgMatrixExpBackward0), which cannot be read together; "
    )
    once = (torch.randn(6, 3) @ few).tanh()
    both = torch.softmax(once @ few, 0).square().sum()
    assert reason(both, few).startswith(
        "it is used at 2 places, which would take 36 tangents instead of 9 rows, since no samples are told apart; "
    )


def test_a_penalty_beside_shared_uses() -> None:
    torch.manual_seed(0)
    loss, cell = recurrent(nn.RNNCell(5, 10).double())
    penalty = sum((parameter.pow(4).sum() for parameter in cell.parameters()), torch.zeros(()).double())
    result = assert_right(loss() + 0.1 * penalty, cell)
    assert "weight_hh" in shared(result)
    assert "PowBackward0 by entry" in result.report["weight_hh"].reason


def test_a_hook_is_not_read_over() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 8).double()
    first = layer(torch.randn(4, 8).double())
    first.register_hook(lambda gradient: gradient - gradient.mean(0))
    loss = layer(first.tanh()).pow(2).mean()
    result = assert_right(loss, layer)
    assert not shared(result)
    assert "hook" in result.report["weight"].reason


def test_values_and_hooks_stay_as_they_are() -> None:
    torch.manual_seed(0)
    loss, cell = recurrent(nn.RNNCell(5, 10).double())
    value = loss()
    hidden = value.grad_fn
    first = torch.autograd.grad(value, list(cell.parameters()), retain_graph=True)
    hessian_diagonal(value, cell, method="graph", progress=False)
    again = torch.autograd.grad(value, list(cell.parameters()), retain_graph=True)
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(first, again, strict=True))
    assert value.grad_fn is hidden
    assert all(parameter.grad is None for parameter in cell.parameters())
