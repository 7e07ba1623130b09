"""Every run of the engine is seen, told apart, and left as it was."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from gradgraph.passes import Pass, observe, unobserved

_AUTOGRAD: Any = torch.autograd  # it does not export the name that it binds


class Log:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.begun: list[Pass] = []
        self.ended: list[Pass] = []
        self.errors: list[str] = []
        self.roots: list[int] = []

    def before(self, pass_: Pass) -> None:
        self.begun.append(pass_)
        self.roots.append(len(pass_.roots))

    def after(self, pass_: Pass) -> None:
        self.ended.append(pass_)
        self.errors.append(type(pass_.error).__name__)


def _bindings() -> tuple[Any, Any]:
    return _AUTOGRAD._engine_run_backward, torch.autograd.graph._engine_run_backward


@pytest.fixture(autouse=True)
def _undone() -> Any:
    before = _bindings()
    yield
    assert _bindings() == before


def test_sees_backward_and_grad_with_their_options() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    log = Log()
    with observe(log):
        (x**3).backward()
        (gradient,) = torch.autograd.grad(x**3, x, create_graph=True)
        torch.autograd.backward([gradient, x * 2], retain_graph=True, inputs=[x])
    assert [one.number for one in log.begun] == [1, 2, 3]
    assert [one.accumulates for one in log.begun] == [True, False, True]
    assert [one.create_graph for one in log.begun] == [False, True, False]
    assert [one.retain_graph for one in log.begun] == [False, True, True]
    assert log.roots == [1, 1, 2]
    assert log.ended == log.begun
    assert not any(one.nested for one in log.begun)
    assert all(one.thread == threading.get_ident() for one in log.begun)


def test_batched_gradients_are_one_run() -> None:
    x = torch.ones(3, requires_grad=True)
    log = Log()
    with observe(log):
        torch.autograd.grad(x * 2, x, torch.eye(3), is_grads_batched=True)
    assert len(log.begun) == 1


def test_sequence_numbers_own_the_nodes_that_the_run_made() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    y = x**3
    log = Log()
    with observe(log):
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    after = gradient * 2
    (seen,) = log.ended
    assert seen.last is not None
    assert gradient.grad_fn is not None
    assert after.grad_fn is not None
    assert y.grad_fn is not None
    assert y.grad_fn._sequence_nr() < seen.first <= gradient.grad_fn._sequence_nr() < seen.last
    assert after.grad_fn._sequence_nr() >= seen.last


def test_a_finished_pass_holds_no_tensor() -> None:
    x = torch.ones(3, requires_grad=True)
    log = Log()
    with observe(log):
        torch.autograd.grad(x * 2, x, torch.ones(3))
    (seen,) = log.ended
    assert (seen.roots, seen.inputs, seen.grad_outputs, seen.error) == ((), (), (), None)


def test_a_run_within_a_run_carries_its_number() -> None:
    x = torch.ones(3, requires_grad=True)
    log = Log()
    with observe(log):
        x.sum().backward()
        checkpoint(torch.sin, x, use_reentrant=True).sum().backward()
        x.sum().backward()
    assert [(one.number, one.nested) for one in log.begun] == [(1, False), (2, False), (2, True), (3, False)]
    assert [one.number for one in log.ended] == [1, 2, 2, 3]


def test_an_error_is_told_and_everything_undone() -> None:
    x = torch.ones(3, requires_grad=True)
    y = (x * x).sum()
    y.backward()
    log = Log()
    with pytest.raises(RuntimeError, match="second time"), observe(log):
        y.backward()
    assert log.errors == ["RuntimeError"]


def test_an_observer_that_fails_keeps_no_other_from_its_end() -> None:
    class Failing(Log):
        def before(self, pass_: Pass) -> None:
            super().before(pass_)
            raise ValueError("mine")

    first, second = Log(), Failing()
    x = torch.ones((), requires_grad=True)
    with observe(first), observe(second), pytest.raises(ValueError, match="mine"):
        (x * 1).backward()
    assert first.errors == second.errors == ["ValueError"]
    assert x.grad is None


def test_observers_nest_and_count_for_themselves() -> None:
    x = torch.ones((), requires_grad=True)
    outer, inner = Log(), Log()
    with observe(outer):
        (x * 1).backward()
        with observe(inner):
            (x * 1).backward()
        (x * 1).backward()
    assert [one.number for one in outer.begun] == [1, 2, 3]
    assert [one.number for one in inner.begun] == [1]


def test_observers_may_leave_in_any_order() -> None:
    x = torch.ones((), requires_grad=True)
    logs = [Log(), Log()]
    first, second = observe(logs[0]), observe(logs[1])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    (x * 1).backward()
    second.__exit__(None, None, None)
    (x * 1).backward()
    assert [len(log.begun) for log in logs] == [0, 1]


def test_another_patch_on_top_of_ours_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones((), requires_grad=True)
    seen: list[str] = []
    log = Log()
    with observe(log):
        ours = _AUTOGRAD._engine_run_backward

        def theirs(*args: Any, **kwargs: Any) -> Any:
            seen.append("theirs")
            return ours(*args, **kwargs)

        monkeypatch.setattr(torch.autograd, "_engine_run_backward", theirs)
    (x * 1).backward()  # theirs still leads through ours, which only passes on now
    assert seen == ["theirs"]
    with observe(log):
        (x * 1).backward()
    assert seen == ["theirs", "theirs"]
    assert len(log.begun) == 1
    monkeypatch.undo()
    # What theirs had kept is ours, inert; put torch's own back.
    _AUTOGRAD._engine_run_backward = torch.autograd.graph._engine_run_backward


def test_passes_of_other_threads_are_seen() -> None:
    log = Log()

    def work() -> None:
        x = torch.ones((), requires_grad=True)
        (x * 1).backward()

    with observe(log):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(one.number for one in log.begun) == [1, 2, 3, 4]
    assert not any(one.nested for one in log.begun)
    assert threading.get_ident() not in {one.thread for one in log.begun}


def test_unobserved_hides_from_those_outside_only() -> None:
    x = torch.ones((), requires_grad=True)
    outer, inner = Log(), Log()
    with observe(outer), unobserved():
        (x * 1).backward()
        with observe(inner):
            (x * 1).backward()
    assert len(outer.begun) == 0
    assert len(inner.begun) == 1
