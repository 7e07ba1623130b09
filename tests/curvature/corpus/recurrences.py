"""One set of weights, used at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.curvature.corpus.build import Build, Built, named, of_module, randn


class Elman(nn.Module):
    """h ← tanh(W h + U x), written as a loop."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 3, bias=bias)
        self.inputs = nn.Linear(2, 3, bias=False)

    def forward(self, steps: Tensor) -> Tensor:
        h = torch.zeros(steps.shape[1], 3, dtype=steps.dtype)
        for step in steps:
            h = torch.tanh(self.hidden(h) + self.inputs(step))
        return h


def tied_rnn() -> Built:
    x = randn(4, 3, 2)
    return of_module(Elman(), lambda call: call(x).square().mean())


def tied_rnn_without_bias() -> Built:
    x = randn(3, 2, 2)
    return of_module(Elman(bias=False), lambda call: call(x).exp().sum())


def _of_cell(cell: nn.Module, steps: Tensor) -> Built:
    def forward(call: Callable[..., Any]) -> Tensor:
        state = None
        for step in steps:
            state = call(step, state)
        last: Any = state[0] if isinstance(state, tuple) else state
        result: Tensor = last.exp().sum()
        return result

    return of_module(cell, forward)


def rnn_cell() -> Built:
    return _of_cell(nn.RNNCell(2, 3), randn(3, 4, 2))


def lstm_cell() -> Built:
    return _of_cell(nn.LSTMCell(2, 2), randn(3, 4, 2))


def gru_cell() -> Built:
    return _of_cell(nn.GRUCell(2, 2), randn(3, 4, 2))


def rnn() -> Built:
    x = randn(4, 3, 2)
    return of_module(nn.RNN(2, 3), lambda call: call(x)[0].exp().mean())


def lstm() -> Built:
    x = randn(3, 2, 2)
    return of_module(nn.LSTM(2, 2, num_layers=2), lambda call: call(x)[0].exp().mean())


def lstm_batch_first() -> Built:
    x = randn(2, 3, 2)
    return of_module(nn.LSTM(2, 2, batch_first=True), lambda call: call(x)[0][:, -1].exp().sum())


def lstm_both_ways() -> Built:
    x = randn(3, 2, 2)
    return of_module(nn.LSTM(2, 2, bidirectional=True), lambda call: call(x)[0].square().sum())


def gru() -> Built:
    x = randn(3, 2, 2)
    return of_module(nn.GRU(2, 2), lambda call: call(x)[0].exp().mean())


def time_major() -> Built:
    """Inputs [T, N, d]: samples are on the second axis, and the loss mixes the steps."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x = randn(3, 4, 2)
    return of_module(module, lambda call: (call(x).sum(0) ** 3).mean())


def time_major_scan() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x = randn(3, 4, 2)
    return of_module(module, lambda call: call(x).cumsum(0).exp().mean())


def truncated_rnn() -> Built:
    """The state is detached between windows."""
    x = randn(4, 3, 2)

    def forward(call: Callable[..., Any]) -> Tensor:
        first = call(x[:2])
        result: Tensor = (call(x[2:]) * first.detach()).exp().mean() + first.square().sum()
        return result

    return of_module(Elman(), forward)


CASES: Mapping[str, Build] = named(
    tied_rnn,
    tied_rnn_without_bias,
    rnn_cell,
    lstm_cell,
    gru_cell,
    rnn,
    lstm,
    lstm_batch_first,
    lstm_both_ways,
    gru,
    time_major,
    time_major_scan,
    truncated_rnn,
)
